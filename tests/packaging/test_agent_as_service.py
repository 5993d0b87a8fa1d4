"""The agent under a service manager: a real notify socket, real signals, documented exit codes."""

from __future__ import annotations

import secrets
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from axiom_client.errors import AlreadyRunning, NotAttached
from tests.e2e.conftest import agent, held_walk, server  # fixtures
from tests.support.processes import WAIT_SECONDS, wait_for
from tests.support.programs import Program, Server

__all__ = ["agent", "held_walk", "server"]

WATCHDOG_SECONDS = 2.0


class Manager:
    """Does what systemd does for a Type=notify service: receive and keep notifications."""

    def __init__(self) -> None:
        self._name = f"axiom-{secrets.token_hex(8)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{self._name}")
        self._socket.settimeout(0.1)
        self.heard: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        return {
            "NOTIFY_SOCKET": f"@{self._name}",
            "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6)),
        }

    def listen(self) -> list[str]:
        """Everything heard so far, line by line."""
        while True:
            try:
                self.heard += self._socket.recv(4096).decode().splitlines()
            except TimeoutError:
                return self.heard

    def wait_for(self, word: str, times: int = 1) -> None:
        wait_for(f"{times} x {word}", lambda: self.listen().count(word) >= times)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager() -> Iterator[Manager]:
    made = Manager()
    yield made
    made.close()


def attached(server: Server, agent: Program, manager: Manager) -> None:
    agent.run("attach", server.url)
    agent.environment.update(manager.environment)


def test_ready_alive_reloading_stopping(server: Server, agent: Program, manager: Manager) -> None:
    attached(server, agent, manager)
    journal = agent.folder.parent / "axiom-client.log"
    journal.touch()
    found = journal.stat()
    agent.environment["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
    process = agent.start("run", "--no-display")
    manager.wait_for("READY=1")
    assert agent.json("status")["state"] == "running"  # ready means that it can be spoken to
    manager.wait_for("WATCHDOG=1", times=3)
    assert any(line.startswith("STATUS=running: ") for line in manager.heard)

    process.send_signal(signal.SIGHUP)
    manager.wait_for("RELOADING=1")
    manager.wait_for("READY=1", times=2)
    assert manager.heard.index("RELOADING=1") < len(manager.heard) - manager.heard[::-1].index(
        "READY=1"
    )

    assert agent.stop() == 0
    manager.wait_for("STOPPING=1")
    assert "<6>stopping: received SIGTERM" in journal.read_text().splitlines()


@pytest.mark.slow
def test_reload_takes_up_the_configuration_and_survives_a_broken_one(
    server: Server, agent: Program, manager: Manager
) -> None:
    attached(server, agent, manager)
    config = agent.folder / "config" / "config.toml"
    process = agent.start("run", "--no-display")
    manager.wait_for("READY=1")

    config.write_text("[cpu]\ncores = 'many'\n")
    process.send_signal(signal.SIGHUP)
    wait_for("the refusal", lambda: any("refused" in line for line in manager.listen()))
    assert process.poll() is None

    config.write_text("[cpu]\nshare = '0%'\n")
    process.send_signal(signal.SIGHUP)
    manager.wait_for("READY=1", times=3)
    wait_for("the new limit", lambda: "cpu.share is 0%" in agent.run("status", "--json"))


@pytest.mark.slow
def test_a_hanging_loop_stops_its_watchdog_notifications(
    server: Server, agent: Program, manager: Manager
) -> None:
    """SIGSTOP simulates a hang; systemd would kill the agent and start it again."""
    attached(server, agent, manager)
    process = agent.start("run", "--no-display")
    manager.wait_for("WATCHDOG=1")
    process.send_signal(signal.SIGSTOP)
    manager.listen()
    before = manager.heard.count("WATCHDOG=1")
    time.sleep(2 * WATCHDOG_SECONDS)
    assert manager.listen().count("WATCHDOG=1") == before
    process.send_signal(signal.SIGCONT)
    manager.wait_for("WATCHDOG=1", times=before + 1)


def runs_a_task(agent: Program, manager: Manager) -> bool:
    """Asked often: the manager listens meanwhile, as its socket holds ten messages only."""
    manager.listen()
    return any(task["state"] == "running" for task in agent.json("tasks")["tasks"])


def test_first_sigterm_lets_tasks_stop_and_the_second_does_not_wait(
    server: Server, agent: Program, manager: Manager, held_walk: Path
) -> None:
    server.run("publish", str(held_walk))
    attached(server, agent, manager)
    server.run("deploy", "short_walk", "--count", "2")
    process = agent.start("run", "--no-display")
    wait_for("a task to run", lambda: runs_a_task(agent, manager))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=WAIT_SECONDS) == 0
    manager.wait_for("STOPPING=1")
    kept = agent.json("status")
    assert kept["state"] == "not running"
    assert len(agent.json("tasks")["tasks"]) >= 1  # nothing in hand was lost


def test_exit_codes_of_a_start_that_cannot_work(
    server: Server, agent: Program, manager: Manager
) -> None:
    agent.environment.update(manager.environment)
    assert agent.finish("run", "--no-display").returncode == NotAttached.exit_code

    agent.run("attach", server.url)
    agent.start("run", "--no-display")
    manager.wait_for("READY=1")
    assert agent.finish("run", "--no-display").returncode == AlreadyRunning.exit_code
