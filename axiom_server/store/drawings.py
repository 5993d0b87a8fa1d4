"""Pictures and tables that take long to make: of declared figures, and of studies.

``owner`` is "version:ID" or "study:ID". ``made_of`` changes with what a drawing is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from axiom_server.store.database import Connection, rows


class Drawing(NamedTuple):
    """One picture or table."""

    made_at: datetime
    made_of: int
    content: bytes


async def get(connection: Connection, owner: str, name: str) -> Drawing | None:
    """A drawing; None when it was not made yet."""
    found = await rows(
        connection,
        "SELECT made_at, made_of, content FROM drawings WHERE owner = %s AND name = %s",
        (owner, name),
    )
    return Drawing._make(found[0]) if found else None


async def names(connection: Connection, owner: str) -> dict[str, datetime]:
    """What was made of an owner, and when."""
    found = await rows(connection, "SELECT name, made_at FROM drawings WHERE owner = %s", (owner,))
    return {str(name): at for name, at in found}


async def made_of(connection: Connection) -> dict[str, int]:
    """By owner, what its drawings were made of."""
    found = await rows(connection, "SELECT owner, max(made_of) FROM drawings GROUP BY owner")
    return {str(owner): int(number) for owner, number in found}


async def replace(
    connection: Connection, owner: str, made_of: int, contents: Mapping[str, bytes]
) -> None:
    """Store all drawings of an owner, and forget those of before."""
    await connection.execute("DELETE FROM drawings WHERE owner = %s", (owner,))
    for name, content in contents.items():
        await connection.execute(
            "INSERT INTO drawings (owner, name, made_of, content) VALUES (%s, %s, %s, %s)",
            (owner, name, made_of, content),
        )
