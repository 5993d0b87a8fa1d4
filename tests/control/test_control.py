"""Control a running agent through its socket: pause, resume, drain, abort, reload, idle reasons."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.agent_process import AgentProcess
from tests.support.processes import wait_for
from tests.support.small_project import SmallProject, served


@pytest.fixture
def project(tmp_path: Path) -> SmallProject:
    return SmallProject(tmp_path / "project")


@pytest.fixture
def agent(tmp_path: Path, project: SmallProject) -> Iterator[AgentProcess]:
    """A running agent with one long task."""
    made = AgentProcess(tmp_path / "agent", AXIOM_CPU_CORES="1")
    project.deploy(project.publish(), 1, pause_seconds=300.0)
    with served(project) as url:
        made.ok("attach", url)
        made.start()
        wait_for("a task to run", lambda: made.tasks("running"))
        yield made
        made.close()


def reasons(agent: AgentProcess) -> list[str]:
    return [slot["reason"] for slot in agent.json("status")["slots"]]


def test_pause_stops_the_processes_and_says_why(agent: AgentProcess) -> None:
    before = agent.json("tasks")["tasks"][0]["elapsed_seconds"]
    agent.ok("pause", "--for", "2h")
    wait_for("the pause", lambda: agent.tasks("paused"))
    stopped = wait_for(
        "a process to be stopped",
        lambda: [p for p in agent.processes() if p.status() == psutil.STATUS_STOPPED],
    )
    status = agent.json("status")
    assert status["state"] == "paused"
    assert status["slots"][0]["reason"].startswith("paused by you until")
    shown = agent.json("tasks")["tasks"][0]["elapsed_seconds"]
    assert agent.json("tasks")["tasks"][0]["elapsed_seconds"] == shown >= before
    agent.ok("resume")
    wait_for("the task to go on", lambda: agent.tasks("running"))
    wait_for(
        "its processes to go on",
        lambda: not [p for p in stopped if p.status() == psutil.STATUS_STOPPED],
    )


def test_each_idle_slot_has_its_reason(agent: AgentProcess) -> None:
    first, *others = reasons(agent)
    assert first == ""
    assert set(others) <= {"kept free: cpu.cores is 1"}


def test_status_without_a_terminal_or_without_utf8(agent: AgentProcess) -> None:
    agent.environment["PYTHONIOENCODING"] = "ascii"
    for words in (["status"], ["top"], ["tasks"]):
        text = agent.ok(*words)
        assert "short_walk" in text
        assert text.isascii()
        assert "\x1b" not in text


def test_a_drain_finishes_running_tasks_and_then_ends(
    project: SmallProject, agent: AgentProcess
) -> None:
    agent.ok("drain", "--reason", "moving house", "--then", "exit")
    wait_for("the server to know", lambda: project.requests[-1].draining == "moving house")
    assert agent.json("status")["state"] == "draining"
    assert agent.tasks("running")
    agent.ok("task", "abort", str(agent.tasks("running")[0]))
    assert agent.process is not None
    assert agent.process.wait(timeout=60) == 0
    assert list(project.outcomes().values()) == ["cancelled"]


def test_abort_of_a_task_that_is_not_here(agent: AgentProcess) -> None:
    assert "99" in agent.refused(9, "task", "abort", "99")


def test_config_set_is_applied_and_an_invalid_file_is_not(agent: AgentProcess) -> None:
    agent.environment.pop("AXIOM_CPU_CORES")
    assert "now in use" in agent.ok("config", "set", "gpu.enabled", "false")
    config = agent.folder / "config" / "config.toml"
    config.write_text("[cpu]\nshare = 'much'\n")
    assert "cpu.share" in agent.refused(3, "config", "set", "cpu.share", "nothing")
    assert agent.tasks("running")


def test_each_config_set_is_logged_once(agent: AgentProcess) -> None:
    agent.environment.pop("AXIOM_CPU_CORES")
    for value in ("false", "true"):
        agent.ok("config", "set", "gpu.enabled", value)
    agent.ok("pause")  # answered after the file watch has notified the agent twice
    wait_for("the pause", lambda: agent.tasks("paused"))
    assert agent.ok("log").count("the changed configuration is in use") == 2


def test_log_tells_what_happened(agent: AgentProcess) -> None:
    assert "1 task granted" in agent.ok("log")
    assert any("granted" in line for line in agent.json("log")["lines"])


def test_garbage_on_the_socket_does_no_harm(agent: AgentProcess) -> None:
    for line in (b"\n", b"{}\n", b"\xff\xfe\n", b'{"do": "dance"}\n', b"x" * 2_000_000):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(agent.folder / "state" / "control.sock"))
            try:
                connection.sendall(line)
                connection.recv(10_000)
            except (BrokenPipeError, ConnectionResetError):
                continue
    assert agent.tasks("running")


def test_commands_without_an_agent(tmp_path: Path) -> None:
    quiet = AgentProcess(tmp_path / "quiet")
    for words in (["pause"], ["resume"], ["drain"], ["sync"], ["top"], ["stop"]):
        assert "axiom-client run" in quiet.refused(7, *words)
    for words in (["status"], ["tasks"], ["run"], ["detach"]):
        assert "axiom-client attach" in quiet.refused(4, *words)


def test_damaged_or_forbidden_files_are_named(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path / "agent")
    state = agent.folder / "state"
    state.mkdir(parents=True)
    (state / "identity.json").write_text("{nonsense")
    assert "identity.json is damaged" in agent.refused(21, "status")
    agent.environment["AXIOM_CLIENT_DIR"] = str(state / "identity.json")  # a file, not a folder
    assert "identity.json" in agent.refused(21, "run")


def test_a_drain_with_a_deadline_ends_running_tasks_and_then_pauses(
    project: SmallProject, agent: AgentProcess
) -> None:
    agent.ok("drain", "--reason", "guests", "--deadline", "1 s", "--then", "pause")
    wait_for("the pause", lambda: agent.json("status")["state"] == "paused")
    assert agent.json("status")["reason"] == "drained, guests"
    [reports] = project.reports.values()
    assert (reports[0].outcome, len(reports)) == ("cancelled", 1)
    assert "the drain's deadline has passed" in reports[0].message
    assert "--deadline 'soon'" in agent.refused(3, "drain", "--deadline", "soon")
    assert "no GPU 0" in agent.refused(8, "pause", "--gpu", "0")


def test_the_file_is_read_again_when_an_editor_writes_it_and_nonsense_changes_nothing(
    agent: AgentProcess,
) -> None:
    del agent.environment["AXIOM_CPU_CORES"]  # of the commands; the agent's own stands
    config = agent.folder / "config" / "config.toml"
    config.write_text("[run]\nschedule = '00:00-00:01, 00:01-00:02'\n[gpu]\nenabled = 'maybe'\n")
    wait_for("the refusal", lambda: "gpu.enabled" in agent.ok("log"))
    assert "is refused, the old one stays in use" in agent.ok("log")
    assert agent.tasks("running")
    beside = config.with_suffix(".new")  # as editors do it
    beside.write_text("[cpu]\nshare = '0%'\n")
    beside.replace(config)
    wait_for("the new share", lambda: agent.tasks("paused"))
    assert agent.json("tasks")["tasks"][0]["reason"] == "kept free: cpu.share is 0%"
    config.unlink()
    wait_for("the defaults", lambda: agent.tasks("running"))
