"""What the owner of a host is shown of it: its standing, its tasks, its errors."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from axiom_server.store.database import Connection, rows


class OwnHost(NamedTuple):
    """One host as its owner sees it.

    pace        its elapsed seconds over those that experiments declare
    agreements  results of it that others confirmed since the last that one did not
    failing     failures since its last success
    """

    host_id: int
    name: str
    group: str
    state: str
    state_reason: str
    last_seen_at: datetime | None
    cpu_cores: int
    gpus: int
    pace: float
    agreements: int
    trusted: bool
    failing: int
    pending: int
    credit_total: float
    status: dict[str, Any] | None


class TaskInHand(NamedTuple):
    """A task that the host has."""

    task_id: int
    experiment: str
    device: str
    granted_at: datetime
    deadline_at: datetime
    progress: float


class EndedTask(NamedTuple):
    """A task that has ended. ``refusal``: why it earns nothing; ``message``: its last words."""

    task_id: int
    experiment: str
    ended_at: datetime
    outcome: str
    elapsed_seconds: float | None
    refusal: str
    message: str


class Mismatch(NamedTuple):
    """A result that others' results of the same seed disagreed with."""

    task_id: int
    at: datetime
    note: str


async def get(connection: Connection, user_id: int, host_id: int) -> OwnHost | None:
    """A host of this user; None when it is not one of theirs."""
    found = await rows(
        connection,
        """SELECT host_id, name, group_name, state, state_reason, last_seen_at, cpu_cores, gpus,
                  pace, agreements, trusted, failing, pending, credit_total::float8, status
           FROM hosts WHERE user_id = %s AND host_id = %s""",
        (user_id, host_id),
    )
    return OwnHost._make(found[0]) if found else None


async def tasks_in_hand(connection: Connection, host_id: int, limit: int) -> list[TaskInHand]:
    """Tasks that the host has leased, the oldest first."""
    found = await rows(
        connection,
        """SELECT t.task_id, e.name, t.device, t.granted_at, t.deadline_at, t.progress
           FROM tasks t JOIN experiments e USING (experiment_id)
           WHERE t.host_id = %s AND t.state = 'leased' ORDER BY t.task_id LIMIT %s""",
        (host_id, limit),
    )
    return [TaskInHand._make(r) for r in found]


async def tasks_ended(connection: Connection, host_id: int, limit: int) -> list[EndedTask]:
    """The host's latest tasks that have ended, the newest first."""
    found = await rows(
        connection,
        """SELECT t.task_id, e.name, t.ended_at, t.outcome, t.elapsed_seconds, t.refusal, t.message
           FROM (SELECT * FROM tasks WHERE host_id = %s ORDER BY task_id DESC LIMIT %s) t
           JOIN experiments e USING (experiment_id)
           WHERE t.outcome IS NOT NULL AND t.ended_at IS NOT NULL ORDER BY t.task_id DESC""",
        (host_id, limit),
    )
    return [EndedTask._make(r) for r in found]


async def mismatches(connection: Connection, host_id: int, limit: int) -> list[Mismatch]:
    """Results of the host that others' did not agree with, the newest first."""
    found = await rows(
        connection,
        "SELECT task_id, at, note FROM mismatches WHERE host_id = %s ORDER BY at DESC LIMIT %s",
        (host_id, limit),
    )
    return [Mismatch._make(r) for r in found]
