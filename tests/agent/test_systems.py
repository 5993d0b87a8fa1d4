"""What one system wrote is read on another: journal, identity and configuration.

tests/fixtures/states holds what ``tests.support.written_state`` wrote on Linux, and under Windows'
CPython in wine. The journals are those of killed agents: what they wrote last is in SQLite's log.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from axiom_client.agent.journal import Journal
from axiom_client.agent.lock import Lock
from axiom_client.config.schema import load_config
from axiom_client.decide import commands as c
from axiom_client.errors import AlreadyRunning
from axiom_client.project.identity import read_identity
from tests.support import written_state as written

STATES = Path(__file__).parents[1] / "fixtures/states"
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["linux", "windows", "here"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of what this system wrote; "here": the one that the test runs on."""
    folder = tmp_path / "state"
    if request.param == "here":
        words = [sys.executable, "-m", "tests.support.written_state", str(folder)]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        subprocess.run(words, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
    else:
        folder.mkdir()
        for file in (STATES / request.param).iterdir():  # wine has no CopyFile2, which shutil uses
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_killed_agents_journal_is_taken_over(state: Path) -> None:
    assert (state / "journal.sqlite-wal").stat().st_size > 0  # nothing was checkpointed
    journal = Journal(state / "journal.sqlite")
    contents = journal.contents()
    assert contents.tasks == written.RECORDS
    assert [waiting.task_id for waiting in contents.reports] == [1]
    assert journal.reports([1], "") == [written.REPORT]
    assert contents.unanswered == written.PLAN
    assert contents.durations == written.DURATIONS
    journal.write([c.ForgetTask(task_id=1)])
    journal.close()
    again = Journal(state / "journal.sqlite")
    assert [record.grant.task_id for record in again.contents().tasks] == [2]
    again.close()


def test_identity_and_configuration_are_read(state: Path) -> None:
    assert read_identity(state / "identity.json") == written.IDENTITY
    name, value = written.SETTING
    assert str(load_config(state / "config.toml")[name]) == value


def test_nothing_in_them_names_a_system_or_a_path() -> None:
    """Both systems wrote the same records, and no text in them is a path of either."""
    found = {}
    for name in ("linux", "windows"):
        data = b"".join(file.read_bytes() for file in sorted((STATES / name).iterdir()))
        assert not re.search(rb"[A-Za-z]:\\\\|/home/|/root|/tmp|win32|linux", data), name
        found[name] = (STATES / name / "identity.json").read_bytes()
    assert found["linux"] == found["windows"]


def test_one_agent_for_each_folder_who_can_be_named(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "agent.lock")
    with pytest.raises(AlreadyRunning, match=rf"process {os.getpid()}\)"):
        Lock(tmp_path / "agent.lock")
    lock.release()
    Lock(tmp_path / "agent.lock").release()
