"""The rows of a query as a file to download: CSV, JSON or Parquet."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from psycopg import sql

from axiom_server.store.database import Connection
from axiom_server.transfer.parquet import to_parquet

ROWS_MAX = 200_000  # of one file, which is made in memory


@dataclass(frozen=True, kw_only=True)
class Table:
    """A query and its columns: name -> DuckDB type. Values of the query are literals."""

    columns: Mapping[str, str]
    query: str
    values: Mapping[str, Any]


async def read_csv(connection: Connection, table: Table) -> bytes:
    """The rows as CSV with a header; at most ROWS_MAX."""
    literals = {name: sql.Literal(value) for name, value in table.values.items()}
    query = sql.SQL(f"SELECT * FROM ({table.query}) AS q LIMIT {ROWS_MAX}").format(**literals)
    copy = sql.SQL("COPY ({}) TO STDOUT WITH (FORMAT csv, HEADER)").format(query)
    made = io.BytesIO()
    async with connection.cursor() as cursor, cursor.copy(copy) as pieces:
        async for piece in pieces:
            made.write(piece)
    return made.getvalue()


async def converted(text: bytes, columns: Mapping[str, str], kind: str) -> bytes | None:
    """A CSV as ``kind`` (csv, json, parquet); None for Parquet where DuckDB is not installed."""
    if kind == "csv":
        return text
    if kind == "parquet":
        return await asyncio.to_thread(to_parquet, text, columns)
    return await asyncio.to_thread(to_json, text, columns)


def to_json(text: bytes, columns: Mapping[str, str]) -> bytes:
    """A CSV with a header as a JSON array of objects."""
    reader = csv.reader(io.StringIO(text.decode()))
    next(reader)
    readers = [_READERS.get(kind, str) for kind in columns.values()]
    return msgspec.json.encode([_object(columns, readers, line) for line in reader])


def _object(
    columns: Mapping[str, str], readers: Sequence[Callable[[str], Any]], line: Sequence[str]
) -> dict[str, Any]:
    return {
        name: read(text) if text else None
        for name, read, text in zip(columns, readers, line, strict=True)
    }


#: By DuckDB type, how a value of the CSV is read; all others are texts.
_READERS: dict[str, Callable[[str], Any]] = {
    "BIGINT": int, "DOUBLE": float, "JSON": lambda text: msgspec.json.decode(text)
}  # fmt: skip
