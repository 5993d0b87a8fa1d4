"""The journal survives crashes, keeps reports until acknowledged, and reports a full disk."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from axiom_client.agent.journal import Journal
from axiom_client.decide import commands as c
from axiom_client.decide.model import SyncPlan, TaskRecord
from axiom_client.errors import DiskFull, JournalBroken, JournalDamaged
from axiom_protocol.messages import Capacity, Report
from tests.support.world import WALL, grant


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    made = Journal(path)
    yield made
    made.close()


def record(task_id: int, order: int = 0) -> TaskRecord:
    return TaskRecord(grant=grant(task_id), order=order, lease_until_wall=WALL)


def report(task_id: int, message: str = "") -> Report:
    return Report(
        task_id=task_id, outcome="success", elapsed_seconds=1.5, cpu_seconds=1.0,
        result={"valid": 1, "configs_done": 9}, message=message,
    )  # fmt: skip


def test_written_records_are_read_back_after_reopening(path: Path) -> None:
    plan = SyncPlan(request_id="a-request-id", capacity=Capacity(cpu_slots=2), report_ids=[1])
    journal = Journal(path)
    journal.write(
        [
            c.SaveTask(record=record(2, order=1)),
            c.SaveTask(record=record(1, order=0)),
            c.SaveReport(report=report(1)),
            c.SaveRequest(plan=plan),
            c.SaveValue(key="durations", value={"walk@1.0.0": 61.0}),
        ]
    )
    journal.close()
    again = Journal(path)
    contents = again.contents()
    assert [r.grant.task_id for r in contents.tasks] == [1, 2]
    assert [(w.task_id, w.outcome) for w in contents.reports] == [(1, "success")]
    assert contents.unanswered == plan
    assert contents.durations == {"walk@1.0.0": 61.0}
    assert again.reports([1, 5]) == [report(1)]
    again.close()


def test_acknowledged_report_and_its_task_are_gone(journal: Journal) -> None:
    journal.write([c.SaveTask(record=record(1)), c.SaveReport(report=report(1))])
    journal.write([c.ForgetTask(task_id=1), c.SaveRequest(plan=None)])
    contents = journal.contents()
    assert (contents.tasks, contents.reports, contents.unanswered) == ([], [], None)


def test_a_full_disk_is_reported_and_nothing_is_half_written(journal: Journal) -> None:
    journal.write([c.SaveTask(record=record(1))])
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count={pages}")
    big = [c.SaveTask(record=record(2)), c.SaveReport(report=report(1, "x" * 7_000))]
    with pytest.raises(DiskFull):
        journal.write(big)
    assert [r.grant.task_id for r in journal.contents().tasks] == [1]
    assert journal.contents().reports == []
    journal._database.execute("PRAGMA max_page_count=100000")
    journal.write(big)
    assert [r.grant.task_id for r in journal.contents().tasks] == [1, 2]


@pytest.mark.parametrize(("free", "expected"), [(4096, DiskFull), (1 << 30, JournalBroken)])
def test_an_error_of_the_disk_is_a_full_disk_where_there_is_no_room(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, free: int, expected: type[Exception]
) -> None:
    """SQLite reports it so when its shared memory does not fit, as at the start after a crash."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"
    usage = shutil.disk_usage(journal.path.parent)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert isinstance(journal._fault(error), expected)


def test_journal_of_another_format_is_not_touched(path: Path) -> None:
    journal = Journal(path)
    journal._database.execute("PRAGMA user_version=99")
    journal.close()
    before = path.read_bytes()
    with pytest.raises(JournalDamaged, match="newer"):
        Journal(path)
    assert path.read_bytes() == before


def test_file_that_is_no_journal_is_named(path: Path) -> None:
    path.write_bytes(b"this is not a database, and long enough to be read as a header" * 100)
    with pytest.raises(JournalBroken, match=str(path)):
        Journal(path)


def test_a_kill_leaves_only_whole_decisions(path: Path) -> None:
    """Each write holds a task and its report; a kill at any time must not separate them."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.agent.test_journal import Journal, c, record, report\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for i in range(1, 100000):\n"
        "    journal.write([c.SaveTask(record=record(i)), c.SaveReport(report=report(i))])\n"
        "    print(i, flush=True)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert writer.stdout is not None
    said = [int(writer.stdout.readline()) for _ in range(50)]
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    journal = Journal(path)
    contents = journal.contents()
    journal.close()
    tasks = [r.grant.task_id for r in contents.tasks]
    assert tasks == [w.task_id for w in contents.reports]
    assert tasks[: len(said)] == said


def test_a_new_file_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    script = (
        "import sys; from pathlib import Path; from axiom_client.agent.journal import Journal; "
        "Journal(Path(sys.argv[1])).close()"
    )
    openers = [subprocess.Popen([sys.executable, "-c", script, path]) for _ in range(6)]
    assert [opener.wait(timeout=60) for opener in openers] == [0] * 6
