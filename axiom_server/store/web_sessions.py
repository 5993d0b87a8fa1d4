"""Who is signed in, and one-time links that sign in. Only the sha256 of a secret is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from axiom_server.store.database import Connection, rows

LINK_SECONDS = 900.0  # to get from the host to a browser
LINKS_MAX = 5  # open at a time for one account; an older one ends
Owner = TypeVar("Owner", int, str)


@dataclass(frozen=True, kw_only=True)
class Sessions(Generic[Owner]):
    """The sessions of one kind of people.

    table    where they are kept: token, owner, expires_at
    owner    the column that says whose a session is
    seconds  after which the owner signs in again
    """

    table: str
    owner: str
    seconds: float

    async def begin(self, connection: Connection, owner: Owner, token: bytes) -> None:
        """Sign somebody in; sessions that have expired are deleted."""
        await connection.execute(f"DELETE FROM {self.table} WHERE expires_at < now()")
        await connection.execute(
            f"""INSERT INTO {self.table} (token, {self.owner}, expires_at)
               VALUES (%s, %s, now() + %s * interval '1 second')""",
            (token, owner, self.seconds),
        )

    async def owner_of(self, connection: Connection, token: bytes) -> Owner | None:
        """Who is signed in with this token; None when it is unknown or has expired."""
        found = await rows(
            connection,
            f"SELECT {self.owner} FROM {self.table} WHERE token = %s AND expires_at > now()",
            (token,),
        )
        owner: Owner | None = found[0][0] if found else None
        return owner

    async def end(self, connection: Connection, token: bytes) -> None:
        """Sign out."""
        await connection.execute(f"DELETE FROM {self.table} WHERE token = %s", (token,))


VOLUNTEERS: Sessions[int] = Sessions(table="web_sessions", owner="user_id", seconds=14 * 86400.0)
STAFF: Sessions[str] = Sessions(table="staff_sessions", owner="name", seconds=8 * 3600.0)


async def close_all(connection: Connection, user_id: int) -> None:
    """Sign a user out everywhere, and end the user's links."""
    await connection.execute("DELETE FROM web_sessions WHERE user_id = %s", (user_id,))
    await connection.execute("DELETE FROM sign_in_links WHERE user_id = %s", (user_id,))


async def make_link(connection: Connection, host_token: bytes, link: bytes) -> bool:
    """Make a link for the owner of the host with this token; False when it has none."""
    await connection.execute("DELETE FROM sign_in_links WHERE expires_at < now()")
    cursor = await connection.execute(
        """INSERT INTO sign_in_links SELECT %s, user_id, now() + %s * interval '1 second'
           FROM hosts WHERE token = %s AND user_id IS NOT NULL""",
        (link, LINK_SECONDS, host_token),
    )
    await connection.execute(
        """DELETE FROM sign_in_links WHERE token IN (
               SELECT token FROM sign_in_links WHERE user_id = (
                   SELECT user_id FROM sign_in_links WHERE token = %s)
               ORDER BY expires_at DESC OFFSET %s)""",
        (link, LINKS_MAX),
    )
    return cursor.rowcount == 1


async def use_link(connection: Connection, link: bytes) -> int | None:
    """Whom this link signs in; it is worth nothing after. None: unknown, used or expired."""
    found = await rows(
        connection,
        "DELETE FROM sign_in_links WHERE token = %s RETURNING user_id, expires_at > now()",
        (link,),
    )
    return int(found[0][0]) if found and found[0][1] else None
