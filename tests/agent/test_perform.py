"""Carrying out commands: a fault with one task's folder ends only that task."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

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


def test_a_folder_that_cannot_be_made_loses_its_task_only(tmp_path: Path) -> None:
    folders = Folders(config=tmp_path, state=tmp_path / "state", cache=tmp_path)
    folders.make()
    (folders.tasks / "7").write_text("in the way")
    identity = Identity(url="http://127.0.0.1:9", project="p", host_id=1, token="t", user="u")
    setup = Setup(folders=folders, identity=identity, network=Network(), host_name="h", run="r")
    events: list[e.Event] = []

    async def start() -> None:
        journal = Journal(folders.journal_file)
        performer = Performer(setup, journal, events.append)
        try:
            performer.perform([c.StartTask(spec=SPEC)])
        finally:
            await performer.close(0)
            journal.close()

    asyncio.run(start())
    [ended] = events
    assert isinstance(ended, e.TaskEnded)
    assert ended.finished.outcome == "lost"
    assert "cannot be made" in ended.finished.message
