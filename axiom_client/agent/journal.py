"""The agent's journal, an SQLite file: tasks in hand, unsent reports, the open request.

A task is written here before it runs, a report before it is sent, and neither is deleted before the
server has acknowledged the report. Everything that one step writes is written in one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from axiom_client.decide import commands as c
from axiom_client.decide.events import WaitingReport
from axiom_client.decide.model import CreditDay, Drain, Pause, SyncPlan, TaskRecord
from axiom_client.errors import DiskFull, JournalBroken
from axiom_protocol.messages import AccountSettings, Credit, HostSettings, Report

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE tasks (task_id INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE reports (task_id INTEGER PRIMARY KEY, report BLOB NOT NULL);
CREATE TABLE kept (key TEXT PRIMARY KEY, value BLOB NOT NULL);
"""
# With NORMAL in WAL mode a power cut may undo the last transactions, but no part of one. What is
# undone is done again, so it is safe, and it saves an fsync (some 10 ms on a disk) between tasks.
PRAGMAS = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=5000;"


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
    account: AccountSettings | None = None
    mode: str = ""
    modes: dict[str, HostSettings] = {}


class Journal:
    """The open journal. Its methods raise DiskFull or JournalBroken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.executescript(PRAGMAS)
            self._prepare()
        except sqlite3.Error as error:
            raise self._fault(error) from None

    def _prepare(self) -> None:
        """Create the tables once, even if the agent and a command open a new file together."""
        if self._version() == 0:
            self._database.execute("BEGIN IMMEDIATE")
            if self._version() == 0:
                for statement in SCHEMA.strip().splitlines():
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._database.execute("COMMIT")
        version = self._version()
        if version != SCHEMA_VERSION:
            raise JournalBroken(
                f"{self.path} was written by another version of axiom-client (format {version}); "
                "update axiom-client, or detach and attach again"
            )

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
            case c.SaveRequest(plan=plan):
                self._keep("request", plan)
            case c.SaveValue(key=key, value=value):
                self._keep(key, value)

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
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise self._fault(error) from None
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
            account=_decode(kept, "account", AccountSettings),
            mode=_decode(kept, "mode", str) or "",
            modes=_decode(kept, "modes", dict[str, HostSettings]) or {},
        )

    def reports(self, task_ids: Iterable[int]) -> list[Report]:
        """The full reports of these tasks, without those that are no longer there."""
        found = []
        for task_id in task_ids:
            row = self._database.execute(
                "SELECT report FROM reports WHERE task_id=?", (task_id,)
            ).fetchone()
            if row is not None:
                found.append(msgspec.json.decode(row[0], type=Report))
        return found

    def _fault(self, error: Exception) -> DiskFull | JournalBroken:
        if getattr(error, "sqlite_errorname", "") in ("SQLITE_FULL", "SQLITE_IOERR_WRITE"):
            return DiskFull(self.path.parent)
        return JournalBroken(
            f"{self.path}: {error}; check the file's permissions and the disk, "
            "or start with an empty journal: axiom-client detach, then attach"
        )


def _waiting(blob: bytes) -> WaitingReport:
    report = msgspec.json.decode(blob, type=Report)
    return WaitingReport(task_id=report.task_id, outcome=report.outcome, size_bytes=len(blob))


def _decode(kept: dict[str, bytes], key: str, kind: Any) -> Any:
    return msgspec.json.decode(kept[key], type=kind) if key in kept else None
