"""Connect to PostgreSQL, and migrate its schema before the first use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg.rows import TupleRow
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool

from axiom_server.errors import DatabaseUnreachable, DiskFull, TransactionConflict

Connection = psycopg.AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Connection]

HEAD = "0010"  # the newest revision; a test compares it with the migrations
MIGRATION_LOCK = 0x4178696F6D  # "Axiom": one process migrates, the others wait
CONNECT_SECONDS = 10
NO_SPACE = "no space left on the disk of the database; free some and try again"
POOL_SIZE = 8  # concurrent transactions of a serving process; more would only wait for the disk
#: The pages have connections of their own, so that many visitors do not delay a sync.
PAGE_POOL_SIZE = 4
PAGE_STATEMENT_SECONDS = 30

set_json_dumps(msgspec.json.encode)
set_json_loads(msgspec.json.decode)


def migrate(conninfo: str) -> None:
    """Migrate the schema to HEAD. Safe when several processes start at once.

    Raises DatabaseUnreachable when PostgreSQL does not answer or its schema is newer than this
    program, and DiskFull.
    """
    with (
        named_errors(),
        psycopg.connect(conninfo, connect_timeout=CONNECT_SECONDS) as connection,
    ):
        connection.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        if (found := _revision(connection)) == HEAD:
            return
        connection.commit()
        _upgrade(conninfo, found)


def _revision(connection: psycopg.Connection[TupleRow]) -> str | None:
    table = connection.execute("SELECT to_regclass('alembic_version')").fetchone()
    if table is None or table[0] is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return row[0] if row else None


def _upgrade(conninfo: str, found: str | None) -> None:
    # Imported here because it takes 0.3 s, and most commands need no migration.
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(conninfo, connect_timeout=CONNECT_SECONDS),
        poolclass=NullPool,
    )
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, HEAD)
            connection.commit()
    except CommandError:
        raise DatabaseUnreachable(
            f"the database has schema {found}, which this program does not know: "
            "it was used by a newer axiom-server; use that one"
        ) from None
    except DBAPIError as error:  # it contains the error of psycopg
        raise error.orig or error from None


@asynccontextmanager
async def connect(conninfo: str, *, autocommit: bool = False) -> AsyncIterator[Connection]:
    """One connection; the block is one transaction, rolled back when it raises.

    autocommit  each statement is a transaction instead

    Raises DatabaseUnreachable, also when PostgreSQL ends within the block, TransactionConflict and
    DiskFull.
    """
    with named_errors():
        connection = await psycopg.AsyncConnection.connect(
            conninfo, connect_timeout=CONNECT_SECONDS, autocommit=autocommit
        )
        async with connection:
            yield connection


@contextmanager
def named_errors() -> Iterator[None]:
    """Within the block, what psycopg raises when PostgreSQL fails is raised as errors of ours."""
    try:
        yield
    except psycopg.errors.DiskFull:
        raise DiskFull(NO_SPACE) from None
    except psycopg.OperationalError as error:
        raise unreachable(error) from None


def make_pool(conninfo: str, size: int = POOL_SIZE) -> Pool:
    """A connection pool for a serving process, not yet open."""
    return AsyncConnectionPool(
        conninfo, min_size=2, max_size=size, open=False, kwargs={"autocommit": True}
    )


def make_page_pool(conninfo: str) -> Pool:
    """A pool for the web pages, not yet open. Statements that take too long are cancelled."""

    async def configure(connection: Connection) -> None:
        await connection.execute(f"SET statement_timeout = '{PAGE_STATEMENT_SECONDS}s'")

    return AsyncConnectionPool(
        conninfo, min_size=1, max_size=PAGE_POOL_SIZE, open=False, configure=configure,
        kwargs={"autocommit": True},
    )  # fmt: skip


#: Conflicts with other transactions; the same transaction may succeed when it is repeated.
LOCK_CONFLICTS = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.LockNotAvailable,
)


def unreachable(error: psycopg.OperationalError) -> DatabaseUnreachable:
    """The error as one line that says what to do next."""
    if isinstance(error, LOCK_CONFLICTS):
        return TransactionConflict(
            "PostgreSQL ended this transaction for a conflict with others; nothing was changed: "
            "run the command again"
        )
    why = str(error).strip().splitlines()[-1] if str(error).strip() else "no answer"
    return DatabaseUnreachable(
        f"PostgreSQL does not answer: {why}; check that it runs, and that "
        "AXIOM_DATABASE_URL is correct if it is set"
    )


def as_json(value: object) -> str:
    """A value as JSON text, to pass a list of rows as one query parameter."""
    return msgspec.json.encode(value).decode()


async def rows(connection: Connection, query: str, values: Any = None) -> list[TupleRow]:
    """All rows of a query."""
    cursor = await connection.execute(query, values)
    return await cursor.fetchall()


async def row(connection: Connection, query: str, values: Any = None) -> TupleRow:
    """The single row of a query that always has one."""
    cursor = await connection.execute(query, values)
    found = await cursor.fetchone()
    if found is None:
        raise LookupError(f"no row: {query.strip().splitlines()[0]}")
    return found


async def has_tables(connection: Connection) -> bool:
    """Whether the database holds any table of its own."""
    found = await row(
        connection, "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'public')"
    )
    return bool(found[0])


async def drop_tables(connection: Connection) -> None:
    """Drop everything that the database holds."""
    await connection.execute("DROP SCHEMA public CASCADE")
    await connection.execute("CREATE SCHEMA public")
