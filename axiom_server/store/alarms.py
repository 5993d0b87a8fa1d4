"""Alarms that the watchdog raised, one for each version and kind."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from axiom_server.store.database import Connection, rows


class AlarmLine(NamedTuple):
    """One alarm."""

    at: datetime
    experiment: str
    kind: str
    message: str


async def raise_alarm(connection: Connection, version_id: int, kind: str, message: str) -> bool:
    """Record an alarm; False when this kind was raised for the version before.

    So a version that staff have resumed is not stopped again for the same reason.
    """
    found = await rows(
        connection,
        """INSERT INTO alarms (version_id, kind, message) VALUES (%s, %s, %s)
           ON CONFLICT (version_id, kind) DO NOTHING RETURNING alarm_id""",
        (version_id, kind, message),
    )
    return bool(found)


async def listing(connection: Connection) -> list[AlarmLine]:
    """All alarms, the newest first."""
    found = await rows(
        connection,
        """SELECT a.at, e.name || '@' || v.version, a.kind, a.message
           FROM alarms a JOIN versions v USING (version_id) JOIN experiments e USING (experiment_id)
           ORDER BY a.at DESC, a.alarm_id DESC""",
    )
    return [AlarmLine._make(r) for r in found]
