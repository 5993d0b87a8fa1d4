"""Sign-in sessions, and one-time links for signing in. Only the sha256 of a secret is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from axiom_server.store.database import Connection, rows

LINK_SECONDS = 900.0  # how long a link is valid: time to open it in a browser
LINKS_MAX = 5  # valid links of one account; the oldest is deleted
SESSIONS_MAX = 50  # of one account; the oldest is deleted
Owner = TypeVar("Owner", int, str)


@dataclass(frozen=True, kw_only=True)
class Sessions(Generic[Owner]):
    """The sign-in sessions of volunteers, or of staff.

    table    table of the sessions, with columns token, owner and expires_at
    owner    name of the column that identifies the owner of a session
    seconds  lifetime of a session
    """

    table: str
    owner: str
    seconds: float

    async def begin(self, connection: Connection, owner: Owner, token: bytes) -> None:
        """Begin a session of ``owner``; expired sessions, and the oldest of many, are deleted."""
        await connection.execute(f"DELETE FROM {self.table} WHERE expires_at < now()")
        await connection.execute(
            f"""INSERT INTO {self.table} (token, {self.owner}, expires_at)
               VALUES (%s, %s, now() + %s * interval '1 second')""",
            (token, owner, self.seconds),
        )
        await connection.execute(
            f"""DELETE FROM {self.table} WHERE token IN (
                   SELECT token FROM {self.table} WHERE {self.owner} = %s
                   ORDER BY expires_at DESC, token = %s DESC OFFSET {SESSIONS_MAX})""",
            (owner, token),
        )

    async def owner_of(self, connection: Connection, token: bytes) -> Owner | None:
        """The owner of the session with this token; None when it is unknown or has expired."""
        found = await rows(
            connection,
            f"SELECT {self.owner} FROM {self.table} WHERE token = %s AND expires_at > now()",
            (token,),
        )
        owner: Owner | None = found[0][0] if found else None
        return owner

    async def end(self, connection: Connection, token: bytes) -> None:
        """End the session with this token."""
        await connection.execute(f"DELETE FROM {self.table} WHERE token = %s", (token,))


VOLUNTEERS: Sessions[int] = Sessions(table="web_sessions", owner="user_id", seconds=14 * 86400.0)
STAFF: Sessions[str] = Sessions(table="staff_sessions", owner="name", seconds=8 * 3600.0)


async def close_all(connection: Connection, user_id: int) -> None:
    """Sign a user out everywhere, and end the user's links."""
    await connection.execute("DELETE FROM web_sessions WHERE user_id = %s", (user_id,))
    await connection.execute("DELETE FROM sign_in_links WHERE user_id = %s", (user_id,))


async def make_link(connection: Connection, host_token: bytes, link: bytes) -> bool:
    """Create a link for the owner of the host with this token; False when it has no owner."""
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
    """Use up a link; returns the user whom it signs in. None: unknown, used or expired."""
    found = await rows(
        connection,
        "DELETE FROM sign_in_links WHERE token = %s RETURNING user_id, expires_at > now()",
        (link,),
    )
    return int(found[0][0]) if found and found[0][1] else None
