"""Connections to databases of tests that stay open between transactions.

A new connection is a new process of PostgreSQL that reads the catalogue again: 10 to 30 ms of CPU,
a thousand times in some files. Each transaction finds its connection as a new one would be.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg

from axiom_server.store.database import CONNECT_SECONDS, Connection, named_errors

#: Without prepared statements, which DISCARD ALL would remove unseen by psycopg.
OPTIONS: Any = {"connect_timeout": CONNECT_SECONDS, "prepare_threshold": None}
#: By database, thread and kind; only databases between ``keep`` and its end have any.
_kept: dict[str, dict[tuple[int, type], Any]] = {}


@contextmanager
def keep(conninfo: str) -> Iterator[None]:
    """Keep connections to this database while the block runs."""
    _kept[conninfo] = {}
    try:
        yield
    finally:
        for connection in _kept.pop(conninfo).values():
            connection.pgconn.finish()


@contextmanager
def kept_connection(conninfo: str) -> Iterator[psycopg.Connection[Any]]:
    """As ``psycopg.connect(conninfo)``: the block is one transaction."""
    connection = _take(conninfo, psycopg.Connection)
    if connection is None:
        connection = psycopg.connect(conninfo, **OPTIONS)
    try:
        yield connection
        connection.commit()
        connection.autocommit = True
        connection.execute("DISCARD ALL")
        connection.autocommit = False
    except BaseException:
        connection.close()
        raise
    if not _give_back(conninfo, connection):
        connection.close()


@asynccontextmanager
async def kept_async_connection(conninfo: str) -> AsyncIterator[Connection]:
    """As ``axiom_server.store.database.connect``."""
    with named_errors():
        connection = _take(conninfo, psycopg.AsyncConnection)
        if connection is None:
            connection = await psycopg.AsyncConnection.connect(conninfo, **OPTIONS)
        try:
            yield connection
            await connection.commit()
            await connection.set_autocommit(True)
            await connection.execute("DISCARD ALL")
            await connection.set_autocommit(False)
        except BaseException:
            await connection.close()
            raise
        if not _give_back(conninfo, connection):
            await connection.close()


def _take(conninfo: str, kind: type) -> Any:
    """A kept connection of this thread, which nothing else uses until it is given back; or None."""
    found = _kept.get(conninfo, {}).pop((threading.get_ident(), kind), None)
    return None if found is None or found.closed else found


def _give_back(conninfo: str, connection: Any) -> bool:
    """Whether it is kept: there is no other, and its database is still there."""
    kept, key = _kept.get(conninfo), (threading.get_ident(), type(connection))
    if kept is None or key in kept:
        return False
    kept[key] = connection
    return True
