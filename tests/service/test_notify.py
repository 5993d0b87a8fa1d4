"""sd_notify against real notify sockets, by path and abstract."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from axiom_client.service.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens on."""
    name = str(tmp_path / "n") if request.param == "path" else f"\0axiom-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name)
        listening.settimeout(10)
        yield listening


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    name = manager.getsockname()
    address = "@" + name[1:].decode() if isinstance(name, bytes) else name
    return {"NOTIFY_SOCKET": address, **more}


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().splitlines()


def test_every_notification_arrives_as_systemd_reads_it(manager: socket.socket) -> None:
    notifier = Notifier(environment(manager))
    assert notifier.ready()
    assert heard(manager) == ["READY=1"]
    assert notifier.ready("4 tasks")
    assert heard(manager) == ["READY=1", "STATUS=4 tasks"]
    assert notifier.status("two\nlines")
    assert heard(manager) == ["STATUS=two lines"]
    assert notifier.alive()
    assert heard(manager) == ["WATCHDOG=1"]
    assert notifier.stopping("asked to")
    assert heard(manager) == ["STOPPING=1", "STATUS=asked to"]


def test_reloading_says_since_when(manager: socket.socket) -> None:
    Notifier(environment(manager)).reloading()
    state, since = heard(manager)
    assert state == "RELOADING=1"
    assert since.startswith("MONOTONIC_USEC=")
    assert int(since.partition("=")[2]) > 0


def test_child_processes_cannot_notify_for_the_agent(manager: socket.socket) -> None:
    given = environment(manager, WATCHDOG_USEC="1000000", WATCHDOG_PID=str(os.getpid()))
    Notifier(given)
    assert given == {}


def test_without_a_manager_nothing_is_sent_and_nothing_fails() -> None:
    notifier = Notifier({})
    assert not notifier.ready()
    assert notifier.watchdog_interval_seconds is None
    asyncio.run(notifier.keep_alive(lambda: "nobody listens"))


def test_a_manager_that_is_gone_does_not_end_the_agent(tmp_path: Path) -> None:
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("180000000", "", 90.0),
        ("180000000", "its own", 90.0),
        ("180000000", "1", None),  # meant for another process
        ("0", "", None),
        ("", "", None),
        ("soon", "", None),
    ],
)
def test_watchdog_interval(usec: str, pid: str, interval: float | None) -> None:
    pid = str(os.getpid()) if pid == "its own" else pid
    notifier = Notifier({"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid})
    assert notifier.watchdog_interval_seconds == interval


def test_watchdog_notifications_keep_coming(manager: socket.socket) -> None:
    notifier = Notifier(environment(manager, WATCHDOG_USEC="20000"))

    async def live() -> None:
        alive = asyncio.create_task(notifier.keep_alive(lambda: "well"))
        for _ in range(3):
            message = await asyncio.to_thread(heard, manager)
            assert message == ["WATCHDOG=1", "STATUS=well"]
        alive.cancel()

    asyncio.run(live())
