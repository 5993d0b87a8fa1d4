"""Review sessions, the deployments after each, and staff's notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from axiom_server.store.database import Connection, row, rows

REVIEW_LOCK = 0x726576696577  # "review": one review at a time


class SessionRow(NamedTuple):
    """One session, with the results and credit of its review."""

    session_id: int
    opened_at: datetime
    results: int
    credit: Decimal
    record: dict[str, Any]


class DeploymentRow(NamedTuple):
    """One deployment; ``record`` is written by publish/deploy.py."""

    deployment_id: int
    session_id: int | None
    deployed_at: datetime
    kind: str
    workunits: int
    record: dict[str, Any]


async def lock_reviews(connection: Connection) -> None:
    """Wait for any other review to end."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (REVIEW_LOCK,))


async def open_session(connection: Connection, results: int, credit: Decimal) -> int:
    """Open a session; returns its id. The first one also gets the deployments made before it."""
    found = await row(
        connection,
        """INSERT INTO sessions (results, credit, record) VALUES (%s, %s, '{}')
           RETURNING session_id""",
        (results, credit),
    )
    session_id = int(found[0])
    await connection.execute(
        "UPDATE deployments SET session_id = %s WHERE session_id IS NULL", (session_id,)
    )
    await connection.execute(
        "UPDATE notes SET session_id = %s WHERE session_id IS NULL", (session_id,)
    )
    return session_id


async def save_record(connection: Connection, session_id: int, record: Mapping[str, Any]) -> None:
    """Store the record of the review."""
    await connection.execute(
        "UPDATE sessions SET record = %s::jsonb WHERE session_id = %s",
        (msgspec.json.encode(record).decode(), session_id),
    )


async def get(connection: Connection, session_id: int | None) -> SessionRow | None:
    """A session, or the latest one."""
    found = await rows(
        connection,
        """SELECT session_id, opened_at, results, credit, record FROM sessions
           WHERE %s::bigint IS NULL OR session_id = %s ORDER BY session_id DESC LIMIT 1""",
        (session_id, session_id),
    )
    return SessionRow._make(found[0]) if found else None


async def exists(connection: Connection, session_id: int) -> bool:
    """Whether there is a session of this number."""
    found = await rows(connection, "SELECT 1 FROM sessions WHERE session_id = %s", (session_id,))
    return bool(found)


async def latest(connection: Connection, limit: int) -> list[SessionRow]:
    """The latest sessions, the newest first."""
    found = await rows(
        connection,
        """SELECT session_id, opened_at, results, credit, '{}'::jsonb FROM sessions
           ORDER BY session_id DESC LIMIT %s""",
        (limit,),
    )
    return [SessionRow._make(r) for r in found]


async def deployments(connection: Connection, session_id: int | None) -> list[DeploymentRow]:
    """The deployments of a session, or those before the first when None."""
    found = await rows(
        connection,
        """SELECT deployment_id, session_id, deployed_at, kind, workunits, record FROM deployments
           WHERE session_id IS NOT DISTINCT FROM %s ORDER BY deployment_id""",
        (session_id,),
    )
    return [DeploymentRow._make(r) for r in found]


async def host_names(connection: Connection, ids: Sequence[int]) -> dict[int, tuple[str, str]]:
    """(name, owner's name or "") of hosts; both are "(hidden)" when the owner is hidden."""
    found = await rows(
        connection,
        """SELECT h.host_id, CASE WHEN u.shown IS FALSE THEN '(hidden)' ELSE h.name END,
                  CASE WHEN u.shown THEN u.name WHEN u.shown IS FALSE THEN '(hidden)' ELSE '' END
           FROM hosts h LEFT JOIN users u
           USING (user_id) WHERE h.host_id = ANY(%s)""",
        (list(ids),),
    )
    return {h: (name, user) for h, name, user in found}


async def add_note(connection: Connection, text: str) -> None:
    """Add a note to the latest session, for the next steps of its log."""
    await connection.execute(
        "INSERT INTO notes (session_id, text) VALUES ((SELECT max(session_id) FROM sessions), %s)",
        (text,),
    )


async def notes(connection: Connection, session_id: int) -> list[str]:
    """A session's notes, in order."""
    found = await rows(
        connection, "SELECT text FROM notes WHERE session_id = %s ORDER BY note_id", (session_id,)
    )
    return [str(r[0]) for r in found]
