"""The agent's journal, an SQLite file: tasks in hand, unsent reports, the open request.

A task is written here before it runs, a report before it is sent, and neither is deleted before the
server has acknowledged the report. Everything that one step writes is written in one transaction.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from axiom_client.decide import commands as c
from axiom_client.decide.events import WaitingReport
from axiom_client.decide.model import (
    CreditDay,
    Drain,
    Incident,
    KeptResult,
    Pause,
    SyncPlan,
    TaskRecord,
)
from axiom_client.errors import DiskFull, JournalBroken, JournalDamaged
from axiom_protocol.messages import AccountSettings, Credit, HostSettings, Report, Work

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE tasks (task_id INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE reports (task_id INTEGER PRIMARY KEY, report BLOB NOT NULL);
CREATE TABLE kept (key TEXT PRIMARY KEY, value BLOB NOT NULL);
"""
TABLES = {"tasks", "reports", "kept"}
#: Acknowledged results (KeepResult). Journals of 0.1.0 lack this table, and 0.1.0 ignores it.
KEPT_SCHEMA = """
CREATE TABLE IF NOT EXISTS kept_results (
    task_id INTEGER PRIMARY KEY, kept BLOB NOT NULL, record BLOB NOT NULL, report BLOB NOT NULL)
"""
# With NORMAL in WAL mode a power cut may undo the last transactions, but no part of one. What is
# undone is done again, so it is safe, and it saves an fsync (some 10 ms on a disk) between tasks.
PRAGMAS = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
ROOM_BYTES_MIN = 1 << 16  # SQLite makes room for its shared memory in pieces of 32 KiB
BUSY_MILLISECONDS = 5000  # another command that reads holds the lock for a few milliseconds
#: SQLite's errors for a damaged file or one that is no database. Its other errors come from the
#: disk or from permissions.
DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT", "SQLITE_IOERR_SHORT_READ")


class JournalContents(Struct, frozen=True, kw_only=True):
    """All that the journal holds, as the agent needs it when it starts."""

    tasks: list[TaskRecord] = []
    reports: list[WaitingReport] = []
    unanswered: SyncPlan | None = None
    pause: Pause | None = None
    gpu_pauses: dict[str, Pause] = {}
    drain: Drain | None = None
    durations: dict[str, float] = {}
    credit: Credit | None = None
    credit_day: CreditDay | None = None
    incident: Incident | None = None
    kept: list[KeptResult] = []
    epoch: str = ""
    account: AccountSettings | None = None
    mode: str = ""
    modes: dict[str, HostSettings] = {}


class Journal:
    """The open journal. Its methods raise DiskFull, JournalBroken or JournalDamaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
        except sqlite3.Error as error:
            raise self._fault(error) from None
        try:
            self._open()
        except BaseException:
            self._database.close()
            raise

    def _open(self) -> None:
        try:
            self._refuse_foreign()
            self._database.executescript(PRAGMAS)
            self._prepare()
        except sqlite3.Error as error:
            raise self._fault(error) from None

    def _refuse_foreign(self) -> None:
        """Refuse another program's database before anything is written to it."""
        self._database.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
        query = "SELECT name, user_version FROM pragma_user_version LEFT JOIN sqlite_schema"
        rows = self._database.execute(query).fetchall()
        names, version = {name for name, _ in rows}, rows[0][1]
        if version > SCHEMA_VERSION and names >= TABLES:
            raise JournalDamaged(self.path, f"written by a newer axiom-client (format {version})")
        if names != {None} and not (names >= TABLES and version == SCHEMA_VERSION):
            raise JournalDamaged(self.path, "another program's database")

    def _prepare(self) -> None:
        """Create the tables once, even if the agent and a command open a new file together."""
        if self._version() == 0:
            self._database.execute("BEGIN IMMEDIATE")
            if self._version() == 0:
                for statement in SCHEMA.strip().splitlines():
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._database.execute("COMMIT")
        self._database.execute(KEPT_SCHEMA)

    def _version(self) -> int:
        version: int = self._database.execute("PRAGMA user_version").fetchone()[0]
        return version

    def close(self) -> None:
        """Close the file; SQLite then moves the write-ahead log into it."""
        self._database.close()

    # --- writing ----------------------------------------------------------------------------------

    def write(self, commands: Iterable[c.Persistent]) -> None:
        """Write all commands in one transaction, or none of them."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            for command in commands:
                self._write_one(command)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise self._fault(error) from None

    def _write_one(self, command: c.Persistent) -> None:
        match command:
            case c.SaveTask(record=record):
                self._put("tasks", record.grant.task_id, record)
            case c.SaveReport(report=report):
                self._put("reports", report.task_id, report)
            case c.ForgetTask(task_id=task_id):
                self._database.execute("DELETE FROM tasks WHERE task_id=?", (task_id,))
                self._database.execute("DELETE FROM reports WHERE task_id=?", (task_id,))
            case c.KeepResult(kept=kept):
                self._keep_result(kept)
            case c.DropResults(task_ids=task_ids):
                for task_id in task_ids:
                    self._database.execute("DELETE FROM kept_results WHERE task_id=?", (task_id,))
            case c.ReportAgain(task_ids=task_ids):
                for task_id in task_ids:
                    self._report_again(task_id)
            case c.SaveRequest(plan=plan):
                self._keep("request", plan)
            case c.SaveValue(key=key, value=value):
                self._keep(key, value)

    def _keep_result(self, kept: KeptResult) -> None:
        self._database.execute(
            """INSERT OR REPLACE INTO kept_results
               SELECT t.task_id, ?, t.record, r.report FROM tasks t JOIN reports r USING (task_id)
               WHERE t.task_id=?""",
            (msgspec.json.encode(kept), kept.task_id),
        )
        self._write_one(c.ForgetTask(task_id=kept.task_id))

    def _report_again(self, task_id: int) -> None:
        for table, column in (("tasks", "record"), ("reports", "report")):
            self._database.execute(
                f"INSERT OR IGNORE INTO {table} SELECT task_id, {column} FROM kept_results "
                "WHERE task_id=?", (task_id,),
            )  # fmt: skip
        self._write_one(c.DropResults(task_ids=[task_id]))

    def _put(self, table: str, task_id: int, value: Struct) -> None:
        column = {"tasks": "record", "reports": "report"}[table]
        self._database.execute(
            f"INSERT OR REPLACE INTO {table} (task_id, {column}) VALUES (?, ?)",
            (task_id, msgspec.json.encode(value)),
        )

    def _keep(self, key: str, value: Any) -> None:
        if value is None:
            self._database.execute("DELETE FROM kept WHERE key=?", (key,))
            return
        self._database.execute(
            "INSERT OR REPLACE INTO kept VALUES (?, ?)", (key, msgspec.json.encode(value))
        )

    def forget_project(self) -> None:
        """Delete the tasks, their reports and the credit; pauses, drains and modes stay."""
        try:
            self._database.executescript(
                "BEGIN IMMEDIATE; DELETE FROM tasks; DELETE FROM reports; "
                "DELETE FROM kept_results; "
                "DELETE FROM kept WHERE key IN ('request', 'credit', 'credit_day', 'epoch'); COMMIT"
            )
        except sqlite3.Error as error:
            raise self._fault(error) from None

    # --- reading ----------------------------------------------------------------------------------

    def contents(self) -> JournalContents:
        """Everything in the journal; tasks in order of arrival."""
        try:
            tasks = [
                msgspec.json.decode(blob, type=TaskRecord)
                for (blob,) in self._database.execute("SELECT record FROM tasks ORDER BY task_id")
            ]
            reports = [
                _waiting(blob)
                for (blob,) in self._database.execute("SELECT report FROM reports ORDER BY task_id")
            ]
            kept = dict(self._database.execute("SELECT key, value FROM kept"))
            results = [
                msgspec.json.decode(blob, type=KeptResult)
                for (blob,) in self._database.execute("SELECT kept FROM kept_results")
            ]
            return _contents(tasks, reports, results, kept)
        except (sqlite3.Error, msgspec.MsgspecError, TypeError) as error:
            raise self._fault(error) from None

    def tasks_again(self, task_ids: Iterable[int]) -> tuple[list[TaskRecord], list[WaitingReport]]:
        """These tasks, and their reports that wait to be sent."""
        wanted = set(task_ids)
        contents = self.contents()
        return (
            [record for record in contents.tasks if record.grant.task_id in wanted],
            [report for report in contents.reports if report.task_id in wanted],
        )

    def reports(self, task_ids: Iterable[int], epoch: str = "") -> list[Report]:
        """The full reports of these tasks, as far as the journal still has them.

        A report of a task that was granted in another epoch than ``epoch`` includes its ``Work``.
        """
        found = []
        for task_id in task_ids:
            row = self._database.execute(
                "SELECT report, record FROM reports LEFT JOIN tasks USING (task_id) "
                "WHERE task_id=?", (task_id,),
            ).fetchone()  # fmt: skip
            if row is not None:
                found.append(_described(row[0], row[1], epoch))
        return found

    def check(self) -> None:
        """Read the whole journal, to find damage before any work begins. Raises JournalDamaged."""
        self.contents()
        try:
            (answer,) = self._database.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.Error as error:
            raise self._fault(error) from None
        if answer != "ok":
            raise JournalDamaged(self.path, answer)

    def _fault(self, error: Exception) -> DiskFull | JournalBroken:
        name = getattr(error, "sqlite_errorname", "")
        if name in ("SQLITE_FULL", "SQLITE_IOERR_WRITE"):
            return DiskFull(self.path.parent)
        if _is_damage(error, name):
            return JournalDamaged(self.path, str(error))
        if name.startswith("SQLITE_IOERR") and _is_full(self.path.parent):
            return DiskFull(self.path.parent)
        return JournalBroken(
            f"{self.path}: {error}; check the file's permissions and the disk, "
            "or start with an empty journal: axiom-client detach, then attach"
        )


def _is_full(folder: Path) -> bool:
    """Whether the disk has no room for SQLite's own files, which it reports as other errors."""
    try:
        return shutil.disk_usage(folder).free < ROOM_BYTES_MIN
    except OSError:
        return False


def _is_damage(error: Exception, name: str) -> bool:
    if isinstance(error, sqlite3.OperationalError) and name == "SQLITE_ERROR":
        return True  # a table or a column is missing
    return isinstance(error, (msgspec.MsgspecError, TypeError)) or name.startswith(DAMAGE)


def _described(report: bytes, record: bytes | None, epoch: str) -> Report:
    decoded = msgspec.json.decode(report, type=Report)
    task = None if record is None else msgspec.json.decode(record, type=TaskRecord)
    if task is None or task.epoch == epoch:
        return decoded
    grant = task.grant
    work = Work(
        experiment=grant.experiment, version=grant.version, parameters=grant.parameters,
        seed=grant.seed, budget_seconds=grant.budget_seconds, device=grant.device,
    )  # fmt: skip
    return msgspec.structs.replace(decoded, work=work)


def _waiting(blob: bytes) -> WaitingReport:
    report = msgspec.json.decode(blob, type=Report)
    return WaitingReport(task_id=report.task_id, outcome=report.outcome, size_bytes=len(blob))


def _contents(
    tasks: list[TaskRecord],
    reports: list[WaitingReport],
    results: list[KeptResult],
    kept: dict[str, bytes],
) -> JournalContents:
    return JournalContents(
        tasks=sorted(tasks, key=lambda record: record.order),
        reports=reports,
        unanswered=_decode(kept, "request", SyncPlan),
        pause=_decode(kept, "pause", Pause),
        gpu_pauses=_decode(kept, "gpu_pauses", dict[str, Pause]) or {},
        drain=_decode(kept, "drain", Drain),
        durations=_decode(kept, "durations", dict[str, float]) or {},
        credit=_decode(kept, "credit", Credit),
        credit_day=_decode(kept, "credit_day", CreditDay),
        incident=_decode(kept, "incident", Incident),
        kept=results,
        epoch=_decode(kept, "epoch", str) or "",
        account=_decode(kept, "account", AccountSettings),
        mode=_decode(kept, "mode", str) or "",
        modes=_decode(kept, "modes", dict[str, HostSettings]) or {},
    )


def _decode(kept: dict[str, bytes], key: str, kind: Any) -> Any:
    return msgspec.json.decode(kept[key], type=kind) if key in kept else None
