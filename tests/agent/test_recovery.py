"""A damaged journal is put aside, and its readable rows are saved and reported."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from axiom_client.agent.journal import Journal
from axiom_client.agent.recovery import ASIDE_MAX, open_journal, remove_journals
from axiom_client.decide import commands as c
from axiom_client.decide.model import KeptResult, Pause, SyncPlan
from axiom_protocol.messages import Capacity
from tests.agent.test_journal import record, report
from tests.support.agent_process import AgentProcess
from tests.support.processes import wait_for
from tests.support.small_project import SmallProject, served

COUNT = 300  # tasks, of which each second has a report: dozens of pages
PAGE_BYTES = 4096
PLAN = SyncPlan(request_id="0123456789abcdef-000007", capacity=Capacity(cpu_slots=2))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def fill(path: Path) -> None:
    journal = Journal(path)
    journal.write([c.SaveTask(record=record(i, order=i)) for i in range(1, COUNT + 1)])
    journal.write([c.SaveReport(report=report(i, "x" * 500)) for i in range(2, COUNT + 1, 2)])
    journal.write([c.SaveRequest(plan=PLAN), c.SaveValue(key="pause", value={"reason": "nap"})])
    journal.close()


def leave_in_log(path: Path) -> None:
    """As after a kill: everything is in the write-ahead log, and little in the file itself."""
    journal = Journal(path)
    journal.write([c.SaveTask(record=record(1)), c.SaveReport(report=report(1))])
    copies = {
        part: part.read_bytes() for part in path.parent.glob("journal.sqlite*") if part.is_file()
    }
    journal.close()
    for part, data in copies.items():
        part.write_bytes(data)
    assert path.with_name(path.name + "-wal").stat().st_size > PAGE_BYTES


def overwrite(path: Path, page: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(page * PAGE_BYTES)
        file.write(data)


def pages_of(path: Path, table: str) -> list[int]:
    """The leaf pages of a table, from 0."""
    database = sqlite3.connect(path)
    query = "SELECT pageno - 1 FROM dbstat WHERE name = ? AND pagetype = 'leaf'"
    try:
        return [page for (page,) in database.execute(query, (table,))]
    except sqlite3.OperationalError:
        return _leaves_without_dbstat(path)
    finally:
        database.close()


def _leaves_without_dbstat(path: Path) -> list[int]:
    """Pages whose first byte says table leaf (13), but the first: sqlite.org/fileformat2.html."""
    data = path.read_bytes()
    pages = range(1, len(data) // PAGE_BYTES)
    return [
        i for i in pages if data[i * PAGE_BYTES] == 13 and b'"grant"' in data[i * 4096 :][:4096]
    ]


def foreign(path: Path, version: int = 0) -> None:
    path.unlink()
    database = sqlite3.connect(path)
    database.executescript(f"CREATE TABLE moz_places (id); PRAGMA user_version={version}")
    database.close()


def newer(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=99")
    database.close()


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("of somebody's")


def odd_row(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("UPDATE tasks SET record = 'not a record' WHERE task_id = 5")
    database.execute("UPDATE kept SET value = 'nor this' WHERE key = 'pause'")
    database.commit()
    database.close()


NOTHING = {
    "garbage": lambda path: path.write_bytes(os.urandom(50_000)),
    "text": lambda path: path.write_text("this is not a database at all\n" * 1000),
    "empty": lambda path: path.write_bytes(b""),
    "cut in its first page": lambda path: os.truncate(path, 700),
    "torn head": lambda path: overwrite(path, 0, bytes(100)),
    "another program's": foreign,
    "another program's, of format 1": lambda path: foreign(path, 1),
    "a folder": folder_instead,
}


@pytest.mark.parametrize("kind", NOTHING)
def test_a_journal_without_readable_rows_is_put_aside_and_a_new_one_begins(
    path: Path, kind: str
) -> None:
    fill(path)
    NOTHING[kind](path)
    before = None if path.is_dir() else path.read_bytes()
    journal = open_journal(path)
    contents = journal.contents()
    assert (contents.tasks, contents.reports) == ([], [])
    assert contents.incident is not None
    assert "0 tasks and 0 reports could be saved" in contents.incident.text
    journal.write([c.SaveTask(record=record(9))])
    journal.close()
    [aside] = path.parent.glob("journal-damaged-*.sqlite")
    assert (aside.read_bytes() if before is not None else aside.is_dir()) == (
        True if before is None else before
    )
    again = open_journal(path)  # and the next start finds nothing wrong
    assert [r.grant.task_id for r in again.contents().tasks] == [9]
    again.close()
    assert len(list(path.parent.glob("journal-damaged-*"))) == 1


@pytest.mark.parametrize("last", [False, True])
def test_bad_pages_cost_only_the_rows_on_them(path: Path, last: bool) -> None:
    fill(path)
    leaves = pages_of(path, "tasks")
    bad = [*leaves[1:-1:7], *leaves[-1:]] if last else leaves[1:-1:7]
    assert len(bad) >= 3
    for page in bad:
        overwrite(path, page, os.urandom(PAGE_BYTES))
    journal = open_journal(path)
    contents = journal.contents()
    ids = [r.grant.task_id for r in contents.tasks if r.grant.experiment == "walk"]
    assert COUNT * 0.7 < len(ids) < COUNT
    assert [w.task_id for w in contents.reports] == list(range(2, COUNT + 1, 2))
    assert journal.reports([COUNT]) == [report(COUNT, "x" * 500)]
    assert contents.unanswered == PLAN
    assert contents.pause == Pause(reason="nap")
    journal.close()


def test_reports_without_their_tasks_are_kept_to_be_sent(path: Path) -> None:
    fill(path)
    for page in pages_of(path, "tasks"):
        overwrite(path, page, bytes(PAGE_BYTES))
    journal = open_journal(path)
    contents = journal.contents()
    reported = {w.task_id for w in contents.reports}
    assert len(reported) == COUNT // 2
    assert reported <= {r.grant.task_id for r in contents.tasks}
    journal.close()


def test_kept_results_are_saved_too(path: Path) -> None:
    """Acknowledged, and needed again if the server is restored from a backup."""
    journal = Journal(path)
    kept = [KeptResult(task_id=i, acknowledged_at=5.0, kept_wall=6.0, size_bytes=7) for i in (1, 2)]
    for result in kept:
        journal.write([c.SaveTask(record=record(result.task_id))])
        journal.write([c.SaveReport(report=report(result.task_id)), c.KeepResult(kept=result)])
    journal.close()
    newer(path)
    journal = open_journal(path)
    contents = journal.contents()
    assert contents.kept == kept
    assert (contents.tasks, contents.reports) == ([], [])
    journal.write([c.ReportAgain(task_ids=[1, 2])])
    assert {again.task_id for again in journal.contents().reports} == {1, 2}
    journal.close()


def test_rows_in_the_rest_of_a_truncated_file_are_saved(path: Path) -> None:
    fill(path)
    os.truncate(path, path.stat().st_size * 2 // 3 + 123)
    journal = open_journal(path)
    assert len(journal.contents().tasks) > COUNT // 4
    assert journal.contents().incident is not None
    journal.close()


@pytest.mark.parametrize("kind", ["newer", "odd row"])
def test_rows_of_another_format_that_can_be_read_are_kept(path: Path, kind: str) -> None:
    fill(path)
    {"newer": newer, "odd row": odd_row}[kind](path)
    journal = open_journal(path)
    contents = journal.contents()
    lost = {5} if kind == "odd row" else set()
    assert {r.grant.task_id for r in contents.tasks} == set(range(1, COUNT + 1)) - lost
    assert len(contents.reports) == COUNT // 2
    assert (contents.pause is None) == (kind == "odd row")
    journal.close()


def test_the_log_of_an_emptied_journal_is_still_read(path: Path) -> None:
    leave_in_log(path)
    path.write_bytes(b"")
    journal = open_journal(path)
    assert [w.task_id for w in journal.contents().reports] == [1]
    journal.close()


def test_a_log_that_is_no_file_is_put_aside_too(path: Path) -> None:
    fill(path)
    path.with_name("journal.sqlite-wal").mkdir()
    journal = open_journal(path)
    assert len(journal.contents().tasks) == COUNT
    journal.close()
    assert [p for p in path.parent.glob("journal-damaged-*-wal") if p.is_dir()]


def test_a_whole_journal_is_left_as_it_is(path: Path) -> None:
    leave_in_log(path)
    journal = open_journal(path)
    assert journal.contents().incident is None
    assert [r.grant.task_id for r in journal.contents().tasks] == [1]
    journal.close()
    assert [p.name for p in path.parent.iterdir()] == ["journal.sqlite"]


@pytest.mark.parametrize("crash_at", range(1, 12))
def test_a_crash_while_it_is_replaced_loses_nothing(
    path: Path, crash_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that changes files may be the last one of a run."""
    fill(path)
    newer(path)
    left = [crash_at]

    def crashing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return real(*words, **named)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", crashing(os.replace))
        patched.setattr(shutil, "copyfile", crashing(shutil.copyfile))
        patched.setattr(Journal, "write", crashing(Journal.write))
        patched.setattr(Journal, "close", crashing(Journal.close))
        with suppress(KeyboardInterrupt):
            open_journal(path).close()
    journal = open_journal(path)
    contents = journal.contents()
    assert (len(contents.tasks), len(contents.reports)) == (COUNT, COUNT // 2)
    assert contents.incident is not None
    journal.close()


def test_only_the_newest_damaged_ones_are_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(ASIDE_MAX + 3):
        stamp = f"2026-01-0{number + 1}T000000Z"
        monkeypatch.setattr("axiom_client.agent.recovery._date", lambda stamp=stamp: stamp)
        path.write_text("garbage")
        open_journal(path).close()
    names = sorted(p.name for p in path.parent.glob("journal-damaged-*"))
    assert names == [f"journal-damaged-2026-01-0{n}T000000Z.sqlite" for n in (4, 5, 6)]
    remove_journals(path)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("kind", ["garbage", "a folder"])
def test_several_damaged_in_one_second_are_kept_apart(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("axiom_client.agent.recovery._date", lambda: "2026-01-01T000000Z")
    for _ in range(ASIDE_MAX + 1):
        fill(path)
        NOTHING[kind](path)
        open_journal(path).close()
    names = sorted(p.name for p in path.parent.glob("journal-damaged-*"))
    dated = "journal-damaged-2026-01-01T000000Z"
    assert names == [f"{dated}-{n}.sqlite" for n in (2, 3, 4)]
    remove_journals(path)
    assert list(path.parent.iterdir()) == []


# --- the agent as a real process ------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    made = AgentProcess(tmp_path / "agent")
    yield made
    made.close()


def test_status_shows_the_damage_and_the_server_gets_saved_reports_and_lost_tasks(
    tmp_path: Path, agent: AgentProcess
) -> None:
    project = SmallProject(tmp_path / "project")
    bundle = project.publish()
    finished = project.deploy(bundle, 1, pause_seconds=3.0)
    gone = project.deploy(bundle, 1, pause_seconds=600.0)
    with served(project) as url:
        agent.ok("attach", url)
        agent.start()
        wait_for("both tasks to run", lambda: agent.tasks("running") == finished + gone)
    wait_for("a report to wait", lambda: agent.tasks("ended") == finished)
    agent.kill()
    tear_row(agent.folder / "state" / "journal.sqlite", *gone)
    status = agent.json("status")
    assert "the next start puts it aside" in status["notices"][0]
    with served(project, int(url.rsplit(":", 1)[1])):
        before = len(project.requests)
        agent.start()
        wait_for("the report", lambda: project.outcomes().get(finished[0]) == "success")
        wait_for("a next sync", lambda: len(project.requests) > before + 1 or agent.json("sync"))
        assert not set(gone) & {task.task_id for task in project.requests[-1].in_hand}
        assert "was damaged" in agent.json("status")["notices"][0]
        assert "1 task and 1 report could be saved" in agent.ok("log", "-n", "100")
        assert agent.stop() == 0
    assert "was damaged" in agent.json("status")["notices"][0]
    assert "was damaged" in agent.ok("status")


def tear_row(journal: Path, task_id: int) -> None:
    database = sqlite3.connect(journal)
    database.execute("UPDATE tasks SET record = x'00' WHERE task_id = ?", (task_id,))
    database.commit()
    database.close()


@pytest.mark.parametrize("kind", NOTHING)
def test_commands_work_whatever_is_in_place_of_the_journal(
    tmp_path: Path, agent: AgentProcess, kind: str
) -> None:
    project = SmallProject(tmp_path / "project")
    ids = project.deploy(project.publish(), 2)
    journal = agent.folder / "state" / "journal.sqlite"
    with served(project) as url:
        agent.ok("attach", url)
        fill(journal)
        NOTHING[kind](journal)
        assert "the next start puts it aside" in agent.json("status")["notices"][0]
        agent.ok("tasks")
        agent.ok("run", "--no-display", "--until-idle")
        assert project.outcomes() == dict.fromkeys(ids, "success")
        NOTHING[kind](journal)
        assert agent.ok("detach").strip() == "detached"
    assert list(journal.parent.glob("journal*")) == []
