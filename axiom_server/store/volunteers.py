"""Volunteers, their hosts and their teams, as shown on public pages."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, NamedTuple

from axiom_server.store.database import Connection, row, rows

#: SQL: orders by recent average at any time; the index users_recent has the same expression.
RECENT = """(ln(u.average) + 1.1460766875e-06::float8 * extract(
    epoch FROM u.average_at - timestamptz '2020-01-01 00:00:00+00')::float8)"""

Order = Literal["total", "recent", "day"]


class LeaderLine(NamedTuple):
    """One line of a leaderboard. ``earned``: what it is ordered by, where that is no column.

    ``results``: of the experiment whose leaderboard it is
    """

    user_id: int
    name: str
    team_id: int | None
    team: str | None
    credit_total: float
    average: float
    average_at: datetime | None
    earned: float
    results: int = 0


class UserRow(NamedTuple):
    """One volunteer."""

    user_id: int
    name: str
    created_at: datetime
    credit_total: float
    average: float
    average_at: datetime | None
    team_id: int | None
    team: str | None


class HostRow(NamedTuple):
    """One host. ``user``: its owner's name, unless the owner is hidden."""

    host_id: int
    name: str
    user_id: int | None
    user: str | None
    imported: bool
    created_at: datetime
    last_seen_at: datetime | None
    state: str
    cpu_cores: int
    gpus: int
    memory_bytes: int
    idle_cpu: int
    idle_gpu: int
    agreements: int
    trusted: bool
    pace: float
    credit_total: float
    average: float
    average_at: datetime | None
    facts: dict[str, Any]


LEADER_COLUMNS = (
    """u.user_id, u.name, t.team_id, t.name, u.credit_total::float8, u.average, u.average_at"""
)
WITH_TEAM = "LEFT JOIN teams t ON t.team_id = u.team_id"


async def leaders(
    connection: Connection, order: Order, limit: int, offset: int = 0
) -> list[LeaderLine]:
    """Volunteers who are not hidden: by credit, recent average, or credit of the last day."""
    source, key, where, direction = _ORDERS[order]
    found = await rows(
        connection,
        f"""SELECT {LEADER_COLUMNS}, {key}::float8 FROM {source} {WITH_TEAM}
            WHERE u.shown AND {where} ORDER BY {key} {direction}, u.user_id
            LIMIT %s OFFSET %s""",
        (limit, offset),
    )
    return [LeaderLine(*r) for r in found]


#: For each order: the FROM clause, the key, the condition, and the direction of the index.
_ORDERS: dict[Order, tuple[str, str, str, str]] = {
    "total": ("users u", "u.credit_total", "true", "DESC"),
    "recent": ("users u", RECENT, "u.average > 0", "DESC NULLS LAST"),
    "day": (
        """(SELECT l.user_id, l.earned FROM snapshots s, jsonb_to_recordset(s.content)
                AS l (user_id bigint, earned numeric) WHERE s.name = 'day'
            ) d JOIN users u USING (user_id)""",
        "d.earned", "true", "DESC",
    ),
}  # fmt: skip


async def leaders_of_experiment(
    connection: Connection, experiment_id: int, limit: int, offset: int = 0
) -> list[LeaderLine]:
    """Volunteers by their credit with one experiment."""
    found = await rows(
        connection,
        f"""SELECT {LEADER_COLUMNS}, e.credit::float8, e.results
            FROM user_experiments e JOIN users u USING (user_id) {WITH_TEAM}
            WHERE e.experiment_id = %s AND u.shown
            ORDER BY e.credit DESC, e.user_id LIMIT %s OFFSET %s""",
        (experiment_id, limit, offset),
    )
    return [LeaderLine(*r) for r in found]


async def user(connection: Connection, user_id: int) -> UserRow | None:
    """A volunteer; None when there is none of this id, or the volunteer is hidden."""
    found = await rows(
        connection,
        f"""SELECT u.user_id, u.name, u.created_at, u.credit_total::float8, u.average, u.average_at,
                   t.team_id, t.name FROM users u {WITH_TEAM} WHERE u.user_id = %s AND u.shown""",
        (user_id,),
    )
    return UserRow._make(found[0]) if found else None


async def rank(connection: Connection, credit_total: float) -> int:
    """The rank by credit of a volunteer with this total."""
    found = await row(
        connection,
        "SELECT 1 + count(*) FROM users WHERE credit_total > %s::numeric",
        (credit_total,),
    )
    return int(found[0])


async def experiments_of(connection: Connection, user_id: int) -> list[tuple[str, int, float]]:
    """(experiment, results, credit) of a volunteer, the most credit first."""
    found = await rows(
        connection,
        """SELECT e.name, s.results, s.credit::float8
           FROM user_experiments s JOIN experiments e USING (experiment_id)
           WHERE s.user_id = %s ORDER BY s.credit DESC, e.name""",
        (user_id,),
    )
    return [(str(n), int(r), float(c)) for n, r, c in found]


_HOST = """SELECT h.host_id, h.name, u.user_id, u.name, h.imported, h.created_at, h.last_seen_at,
       h.state, h.cpu_cores, h.gpus, h.memory_bytes, h.idle_cpu, h.idle_gpu, h.agreements,
       h.trusted, h.pace, h.credit_total::float8, h.average, h.average_at, h.facts
FROM hosts h LEFT JOIN users u ON u.user_id = h.user_id AND u.shown"""


async def hosts_of(connection: Connection, user_id: int, limit: int) -> list[HostRow]:
    """A volunteer's hosts, by credit."""
    found = await rows(
        connection,
        f"{_HOST} WHERE h.user_id = %s ORDER BY h.credit_total DESC, h.host_id LIMIT %s",
        (user_id, limit),
    )
    return [HostRow._make(r) for r in found]


async def host(connection: Connection, host_id: int) -> HostRow | None:
    """A host; None when there is none of this id, or its owner is hidden."""
    found = await rows(
        connection,
        f"""{_HOST} WHERE h.host_id = %s AND NOT EXISTS (
            SELECT FROM users o WHERE o.user_id = h.user_id AND NOT o.shown)""",
        (host_id,),
    )
    return HostRow._make(found[0]) if found else None


async def is_shown(connection: Connection, kind: str, number: int) -> bool:
    """Whether this user or host exists and is public. ``kind``: "user" or "host"."""
    found = await (user if kind == "user" else host)(connection, number)
    return found is not None


async def outcomes(connection: Connection, host_id: int) -> list[tuple[str, int]]:
    """(outcome, tasks) of a host's reviewed tasks, the most first."""
    found = await rows(
        connection,
        "SELECT outcome, tasks FROM host_outcomes WHERE host_id = %s ORDER BY tasks DESC, outcome",
        (host_id,),
    )
    return [(str(o), int(n)) for o, n in found]


async def tasks_running(connection: Connection, host_id: int) -> int:
    """How many tasks a host has leased."""
    found = await row(
        connection,
        "SELECT count(*) FROM tasks WHERE host_id = %s AND state = 'leased'",
        (host_id,),
    )
    return int(found[0])
