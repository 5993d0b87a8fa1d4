"""The journal keeps acknowledged results, on a real SQLite file."""

from __future__ import annotations

from pathlib import Path

from axiom_client.agent.journal import Journal
from axiom_client.decide import commands as c
from axiom_client.decide.model import KeptResult, TaskRecord
from axiom_protocol.messages import Report
from tests.support.world import grant

RECORD = TaskRecord(grant=grant(7, seed=42), order=1, lease_until_wall=5.0, epoch="one")
REPORT = Report(task_id=7, outcome="success", elapsed_seconds=1, cpu_seconds=1, result={"a": 1})
KEPT = KeptResult(task_id=7, acknowledged_at=3.0, kept_wall=4.0, size_bytes=10)


def test_a_kept_result_leaves_the_tasks_and_is_read_back_unchanged(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    journal.write([c.SaveTask(record=RECORD), c.SaveReport(report=REPORT)])
    journal.write([c.KeepResult(kept=KEPT), c.SaveValue(key="epoch", value="one")])
    journal.close()
    journal = Journal(tmp_path / "journal.sqlite")
    contents = journal.contents()
    assert (contents.tasks, contents.reports) == ([], [])
    assert (contents.kept, contents.epoch) == ([KEPT], "one")
    journal.write([c.ReportAgain(task_ids=[7])])
    records, reports = journal.tasks_again([7])
    assert records == [RECORD]
    assert [r.task_id for r in reports] == [7]
    assert journal.contents().kept == []
    assert journal.reports([7], "one") == [REPORT]
    [described] = journal.reports([7], "two")
    assert described.work is not None
    assert (described.work.experiment, described.work.seed) == ("walk", 42)
    journal.close()


def test_kept_results_are_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    journal.write([c.SaveTask(record=RECORD), c.SaveReport(report=REPORT), c.KeepResult(kept=KEPT)])
    journal.write([c.DropResults(task_ids=[7])])
    assert journal.contents().kept == []
    journal.close()
