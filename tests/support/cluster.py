"""PostgreSQL for tests: one embedded cluster for a run, and one database for each test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from axiom_server.store.database import Connection, migrate
from axiom_server.store.embedded import EmbeddedPostgres
from tests.support.kept_connections import keep, kept_async_connection
from tests.support.made_cluster import place_copy

T = TypeVar("T")
#: Nothing here outlives a power cut; what does is tested in test_embedded and by the chaos runs.
WITHOUT_DISK = ("fsync", "full_page_writes")
_numbers = itertools.count(1)


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """A running cluster whose database ``ready`` is migrated."""
    postgres = EmbeddedPostgres(folder / "postgres", folder / "postgres.log")
    place_copy(postgres)
    conninfo = postgres.open()
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            for setting in WITHOUT_DISK:
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("CREATE DATABASE ready")
        migrate(make_conninfo(conninfo, dbname="ready"))
        yield conninfo
    finally:
        postgres.close()


@contextmanager
def fresh_database(conninfo: str) -> Iterator[str]:
    """A new migrated database, dropped afterwards."""
    name = f"test_{next(_numbers)}"
    made = make_conninfo(conninfo, dbname=name)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        # Copies files; the default writes each page to the log first, which takes four times as
        # much CPU.
        connection.execute(f"CREATE DATABASE {name} TEMPLATE ready STRATEGY file_copy")
        with keep(made):
            yield made
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def transaction(conninfo: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run ``work`` in one transaction, in a new event loop."""

    async def inside() -> T:
        async with kept_async_connection(conninfo) as connection:
            return await work(connection)

    return asyncio.run(inside())
