"""Carrying out commands: a fault with one task's folder ends only that task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from axiom_client.agent import perform
from axiom_client.agent.journal import Journal
from axiom_client.agent.perform import Performer, Setup
from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.task_run import TaskLimits, TaskSpec
from axiom_client.folders import Folders
from axiom_client.project.api import Network
from axiom_client.project.identity import Identity

pytestmark = pytest.mark.integration

SPEC = TaskSpec(
    task_id=7, experiment="small", source_path="", sha256="", environment="numpy", parameters={},
    seed=1, budget_seconds=1.0,
    limits=TaskLimits(memory_bytes=1, disk_bytes=1, cpu_seconds=1, wall_seconds=1),
)  # fmt: skip


def performing(tmp_path: Path, use: Callable[[Performer], None]) -> list[e.Event]:
    """The events of a performer that is used in this way."""
    folders = Folders(config=tmp_path, state=tmp_path / "state", cache=tmp_path)
    folders.make()
    identity = Identity(url="http://127.0.0.1:9", project="p", host_id=1, token="t", user="u")
    setup = Setup(folders=folders, identity=identity, network=Network(), host_name="h", run="r")
    events: list[e.Event] = []

    async def start() -> None:
        journal = Journal(folders.journal_file)
        performer = Performer(setup, journal, events.append)
        try:
            use(performer)
        finally:
            await performer.close(0)
            journal.close()

    asyncio.run(start())
    return events


def test_a_folder_that_cannot_be_made_loses_its_task_only(tmp_path: Path) -> None:
    tasks = tmp_path / "state" / "tasks"
    tasks.mkdir(parents=True)
    (tasks / "7").write_text("in the way")
    events = performing(tmp_path, lambda performer: performer.perform([c.StartTask(spec=SPEC)]))
    [ended] = events
    assert isinstance(ended, e.TaskEnded)
    assert ended.finished.outcome == "lost"
    assert "cannot be made" in ended.finished.message


def test_cores_that_come_and_go_are_noticed_between_probes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hot-plugged cores, a changed cpuset or quota: the facts follow within ten seconds."""
    counted = [4]
    monkeypatch.setattr(perform, "cores_now", lambda: counted[0])
    now = [time.monotonic() + 100.0]

    def use(performer: Performer) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        performer.probe_changed_cores(None)  # not probed yet
        performer.probe_changed_cores(4)
        counted[0] = 2
        performer.probe_changed_cores(4)  # checked a moment ago
        now[0] += perform.CORES_CHECK_SECONDS
        performer.probe_changed_cores(4)
        now[0] += perform.CORES_CHECK_SECONDS
        performer.probe_changed_cores(2)
        monkeypatch.undo()

    [probed] = performing(tmp_path, use)
    assert isinstance(probed, e.FactsProbed)
    assert probed.facts.cpu_cores >= 1
