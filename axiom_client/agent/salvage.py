"""Reads a damaged journal row by row; unreadable rows are skipped, all others are kept.

It works on a copy, because SQLite changes a file and its write-ahead log by opening them.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Struct

from axiom_client.agent.journal import JournalContents
from axiom_client.decide import commands as c
from axiom_client.decide.model import KeptResult, SyncPlan, TaskRecord
from axiom_protocol.messages import Grant, Report

T = TypeVar("T")

COPY_BYTES_MAX = 1 << 30  # no journal grows this large, so a larger file is not read
QUERIES_MAX = 4096  # for each table: enough for dozens of bad pages
ID_MAX = 2**63 - 1
WAL_HEADER_BYTES = 32


class KeptRow(Struct, frozen=True, kw_only=True):
    """An acknowledged result that the journal keeps, with its task."""

    kept: KeptResult
    record: TaskRecord
    report: Report

    def commands(self) -> list[c.Persistent]:
        """The commands that write it into a new journal."""
        return [
            c.SaveTask(record=self.record),
            c.SaveReport(report=self.report),
            c.KeepResult(kept=self.kept),
        ]


class Salvaged(Struct, frozen=True, kw_only=True):
    """The tasks, the full reports and the named values that could be read."""

    tasks: list[TaskRecord] = []
    reports: list[Report] = []
    request: SyncPlan | None = None
    kept: dict[c.ValueKey, Any] = {}
    results: list[KeptRow] = []  # acknowledged, and kept for a server that loses them

    def commands(self) -> list[c.Persistent]:
        """The commands that write all of it into a new journal."""
        known = {record.grant.task_id for record in self.tasks}
        orphans = [report for report in self.reports if report.task_id not in known]
        return [
            *(c.SaveTask(record=record) for record in self.tasks),
            *(c.SaveTask(record=_stand_in(report)) for report in orphans),
            *(c.SaveReport(report=report) for report in self.reports),
            *(command for row in self.results for command in row.commands()),
            *([c.SaveRequest(plan=self.request)] if self.request else []),
            *(c.SaveValue(key=key, value=value) for key, value in self.kept.items()),
        ]


def _stand_in(report: Report) -> TaskRecord:
    """A substitute for the lost record of a report's task: once ended, only its number matters."""
    grant = Grant(
        task_id=report.task_id, experiment="unknown", version="0.0.0", sha256="0" * 64,
        parameters={}, seed=0, budget_seconds=0.0, lease_seconds=0.0,
    )  # fmt: skip
    return TaskRecord(grant=grant, order=0, lease_until_wall=0.0, attempts=report.attempts)


def salvage(path: Path) -> Salvaged:
    """Read what is readable; nothing if ``path`` is no SQLite file. Raises OSError."""
    files = [path, path.with_name(path.name + "-wal")]
    if not path.is_file() or sum(f.stat().st_size for f in files if f.is_file()) > COPY_BYTES_MAX:
        return Salvaged()
    folder = path.with_name("salvage")
    shutil.rmtree(folder, ignore_errors=True)  # left by a start that was interrupted
    folder.mkdir(mode=0o700)
    try:
        for file in files:
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
        _make_log_readable(folder / path.name)
        with closing(sqlite3.connect(folder / path.name, isolation_level=None)) as database:
            return _read(database)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_log_readable(path: Path) -> None:
    """Extend an empty file to one page: SQLite deletes the write-ahead log of an empty file, though
    all pages may be in it."""
    log = path.with_name(path.name + "-wal")
    if path.stat().st_size == 0 and log.is_file() and log.stat().st_size > WAL_HEADER_BYTES:
        with log.open("rb") as file:
            page_bytes = int.from_bytes(file.read(12)[8:], "big")  # sqlite.org/fileformat2.html
        if page_bytes <= 65_536:
            path.write_bytes(bytes(page_bytes))


def _read(database: sqlite3.Connection) -> Salvaged:
    database.execute("PRAGMA writable_schema=ON")  # reads also a file that was cut short
    kept = dict(_kept(database))
    request = kept.pop("request", None)
    return Salvaged(
        tasks=list(_decoded(_rows(database, "tasks", "record"), TaskRecord)),
        reports=list(_decoded(_rows(database, "reports", "report"), Report)),
        request=request,
        kept=kept,
        results=list(_kept_results(database)),
    )


def _kept_results(database: sqlite3.Connection) -> Iterator[KeptRow]:
    """The rows of which every part can be read; journals of 0.1.0 have none."""

    def read(column: str, kind: type[T]) -> Iterator[T]:
        return _decoded(_rows(database, "kept_results", column), kind)

    records = {record.grant.task_id: record for record in read("record", TaskRecord)}
    reports = {report.task_id: report for report in read("report", Report)}
    for kept in read("kept", KeptResult):
        if kept.task_id in records and kept.task_id in reports:
            yield KeptRow(kept=kept, record=records[kept.task_id], report=reports[kept.task_id])


def _decoded(blobs: Iterator[bytes], kind: type[T]) -> Iterator[T]:
    for blob in blobs:
        try:
            yield msgspec.json.decode(blob, type=kind)
        except (msgspec.MsgspecError, TypeError):
            continue  # this row is damaged


def _kept(database: sqlite3.Connection) -> Iterator[tuple[Any, Any]]:
    kinds = {field.name: field.type for field in msgspec.structs.fields(JournalContents)}
    kinds["request"] = SyncPlan
    for key in ("request", *get_args(c.ValueKey)):
        query = "SELECT value FROM kept NOT INDEXED WHERE key = ?"
        try:
            (row,) = database.execute(query, (key,)).fetchall()
            value = msgspec.json.decode(row[0], type=kinds[key])
        except (sqlite3.Error, ValueError, TypeError):
            continue  # there was no such value, or it cannot be read
        yield key, value if key == "request" else msgspec.to_builtins(value)


def _rows(database: sqlite3.Connection, table: str, column: str) -> Iterator[bytes]:
    """The readable rows: where reading fails, each half of the remaining range is tried by itself.

    The lower half comes first: above the last row there may be only a bad page, on which every
    query for higher numbers fails.
    """
    ranges = [(0, ID_MAX)]
    query = f"SELECT task_id, {column} FROM {table} WHERE task_id BETWEEN ? AND ? ORDER BY task_id"
    for _ in range(QUERIES_MAX):
        if not ranges:
            return
        low, high = ranges.pop()
        try:
            for task_id, blob in database.execute(query, (low, high)):
                low = task_id + 1
                yield blob
        except sqlite3.Error:
            if low < high:
                middle = (low + high) // 2
                ranges += [(middle + 1, high), (low, middle)]
