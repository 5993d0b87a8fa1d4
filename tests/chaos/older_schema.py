"""Put a project's data into an earlier schema, as an older release would have left it.

Migrations have no way back. So an empty database is migrated to the earlier revision, every column
that both schemas have is copied, and the databases change names in one transaction.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from axiom_server.store import database

Connection = psycopg.Connection[Any]
SPARE, OLD = (
    "older",
    "newer",
)  # names of the database while it is filled, and of the one it replaces
SHARED = "template1"  # a database that is always there, to connect to while others are renamed

COLUMNS = """
SELECT table_name, array_agg(quote_ident(column_name) ORDER BY ordinal_position)
FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND is_generated = 'NEVER'
  AND table_name <> 'alembic_version' GROUP BY 1"""
SEQUENCES = "SELECT sequencename FROM pg_sequences"


def downgrade(conninfo: str, revision: str) -> None:
    """Nothing else may use the database meanwhile. Can be repeated after an error."""
    name = str(conninfo_to_dict(conninfo)["dbname"])
    spare, shared = make_conninfo(conninfo, dbname=SPARE), make_conninfo(conninfo, dbname=SHARED)
    with psycopg.connect(shared, autocommit=True) as connection:
        for unused in (SPARE, OLD):
            _execute(connection, "DROP DATABASE IF EXISTS {} WITH (FORCE)", unused)
        _execute(connection, "CREATE DATABASE {} TEMPLATE template0", SPARE)
    with patch.object(database, "HEAD", revision):
        database.migrate(spare)
    with psycopg.connect(conninfo) as source, psycopg.connect(spare) as target:
        _copy(source, target)
    with psycopg.connect(shared) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY(%s)",
            ([name, SPARE],),
        )
        _execute(connection, "ALTER DATABASE {} RENAME TO {}", name, OLD)
        _execute(connection, "ALTER DATABASE {} RENAME TO {}", SPARE, name)


def _execute(connection: Connection, query: str, *names: str) -> None:
    connection.execute(sql.SQL(query).format(*map(sql.Identifier, names)))  # type: ignore[arg-type]


def _copy(source: Connection, target: Connection) -> None:
    source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    target.execute("SET session_replication_role = replica")  # no triggers, no foreign keys
    there = dict(source.execute(COLUMNS).fetchall())
    tables = target.execute(COLUMNS).fetchall()
    target.execute("TRUNCATE " + ", ".join(f'"{table}"' for table, _ in tables))
    for table, columns in tables:
        _copy_table(source, target, table, [c for c in columns if c in there.get(table, ())])
    known = {name for (name,) in target.execute(SEQUENCES).fetchall()}
    for (name,) in source.execute(SEQUENCES).fetchall():
        if name in known:
            # A number that was set but not given out yet, as after a restore, counts too.
            state = source.execute(f'SELECT last_value, is_called FROM "{name}"').fetchone()  # type: ignore[arg-type]
            target.execute("SELECT setval(%s::regclass, %s, %s)", (f'"{name}"', *state))


def _copy_table(source: Connection, target: Connection, table: str, columns: list[str]) -> None:
    if not columns:
        return
    listed = f'"{table}" ({", ".join(columns)})'
    with (
        source.cursor().copy(f"COPY {listed} TO STDOUT") as rows,  # type: ignore[call-overload]
        target.cursor().copy(f"COPY {listed} FROM STDIN") as filled,  # type: ignore[call-overload]
    ):
        for chunk in rows:
            filled.write(chunk)
