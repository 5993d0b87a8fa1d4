"""Staff: who may sign in to the staff pages, and the audit log of their actions."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from axiom_server.store.database import Connection, as_json, rows


class AuditLine(NamedTuple):
    """One line of the audit log."""

    at: datetime
    who: str
    action: str
    detail: dict[str, Any]


class QuarantinedHost(NamedTuple):
    """A host in quarantine."""

    host_id: int
    name: str
    user: str | None
    reason: str


class OpenComparison(NamedTuple):
    """How many comparisons of an experiment's results are under way."""

    experiment: str
    state: str
    number: int
    oldest: datetime


async def add(connection: Connection, name: str, key: bytes) -> bool:
    """Let a staff member sign in with a key (its sha256); False when the name is taken."""
    cursor = await connection.execute(
        "INSERT INTO staff (name, key) VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, key)
    )
    return cursor.rowcount == 1


async def remove(connection: Connection, name: str) -> bool:
    """Revoke a staff member's key and end all their sessions; False when the name is unknown."""
    cursor = await connection.execute("DELETE FROM staff WHERE name = %s", (name,))
    return cursor.rowcount == 1


async def by_key(connection: Connection, key: bytes) -> str | None:
    """The staff member with this key (its sha256); None when the key is unknown."""
    found = await rows(connection, "SELECT name FROM staff WHERE key = %s", (key,))
    return str(found[0][0]) if found else None


async def record(
    connection: Connection, who: str, action: str, detail: Mapping[str, Any] | None = None
) -> None:
    """Add a line to the audit log, in the same transaction as the action."""
    await connection.execute(
        "INSERT INTO audit_log (who, action, detail) VALUES (%s, %s, %s::jsonb)",
        (who, action, as_json(dict(detail or {}))),
    )


def command_user() -> str:
    """The user who runs a command, as named in the audit log."""
    try:
        return f"command of {getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        return "command"


async def audit_log(connection: Connection, limit: int) -> list[AuditLine]:
    """The newest lines of the audit log, the newest first."""
    found = await rows(
        connection,
        "SELECT at, who, action, detail FROM audit_log ORDER BY entry_id DESC LIMIT %s",
        (limit,),
    )
    return [AuditLine._make(r) for r in found]


async def quarantined_hosts(connection: Connection, limit: int) -> list[QuarantinedHost]:
    """Hosts in quarantine."""
    found = await rows(
        connection,
        """SELECT h.host_id, h.name, u.name, h.state_reason FROM hosts h LEFT JOIN users u
           USING (user_id) WHERE h.state = 'quarantined' ORDER BY h.host_id LIMIT %s""",
        (limit,),
    )
    return [QuarantinedHost._make(r) for r in found]


async def open_comparisons(connection: Connection) -> list[OpenComparison]:
    """Comparisons under way, by experiment and state."""
    found = await rows(
        connection,
        """SELECT e.name, c.state, count(*), min(c.wanted_at) FROM comparisons c
           JOIN workunits w USING (workunit_id) JOIN versions v USING (version_id)
           JOIN experiments e USING (experiment_id)
           WHERE c.state IN ('wanted', 'placed', 'disputed') GROUP BY 1, 2 ORDER BY 1, 2""",
    )
    return [OpenComparison._make(r) for r in found]
