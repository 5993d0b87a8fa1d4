"""Teams: leaderboards, members, and who joins."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

from axiom_server.store.database import Connection, rows
from axiom_server.store.volunteers import LEADER_COLUMNS, WITH_TEAM, LeaderLine

TeamOrder = Literal["total", "recent", "day"]


class TeamRow(NamedTuple):
    """One team, with sums over its current members.

    earned, results  what it is ordered by, where that is no column: of a day or an experiment
    """

    team_id: int
    name: str
    created_at: datetime
    founder_id: int | None
    members: int
    credit_total: float
    average: float
    earned: float
    results: int


#: A user's average as of now: it halves in seven days.
_NOW = """u.average * exp(-ln(2) * GREATEST(0, extract(
    epoch FROM now() - u.average_at))::float8 / 604800)"""
_SUMS = f"""SELECT t.team_id, t.name, t.created_at, t.founder_id, count(u.user_id) AS members,
           COALESCE(sum(u.credit_total), 0)::float8 AS credit,
           COALESCE(sum({_NOW}), 0)::float8 AS recent
    FROM teams t LEFT JOIN users u USING (team_id)"""
_TODAY = "(now() AT TIME ZONE 'UTC')::date"


async def leaders(
    connection: Connection, order: TeamOrder, limit: int, offset: int = 0
) -> list[TeamRow]:
    """Teams by credit, by recent average, or by what they earned today (UTC)."""
    if order == "day":
        return await _best(
            connection, f"SELECT team_id, credit, results FROM team_days WHERE day = {_TODAY}",
            (), limit, offset,
        )  # fmt: skip
    key = {"total": "credit", "recent": "recent"}[order]
    found = await rows(
        connection,
        f"""SELECT *, 0::float8, 0 FROM ({_SUMS} GROUP BY t.team_id) t
            ORDER BY {key} DESC, team_id LIMIT %s OFFSET %s""",
        (limit, offset),
    )
    return [TeamRow._make(r) for r in found]


async def leaders_of_experiment(
    connection: Connection, experiment_id: int, limit: int, offset: int = 0
) -> list[TeamRow]:
    """Teams by what their members earned with one experiment while they were members."""
    return await _best(
        connection,
        "SELECT team_id, credit, results FROM team_experiments WHERE experiment_id = %s",
        (experiment_id,), limit, offset,
    )  # fmt: skip


async def _best(
    connection: Connection, earned: str, values: tuple[int, ...], limit: int, offset: int
) -> list[TeamRow]:
    """The teams of these rows (team_id, credit, results), the most credit first."""
    found = await rows(
        connection,
        f"""WITH best AS ({earned} ORDER BY credit DESC, team_id LIMIT %s OFFSET %s)
            SELECT s.*, best.credit::float8, best.results FROM best JOIN LATERAL (
                {_SUMS} WHERE t.team_id = best.team_id GROUP BY t.team_id) s USING (team_id)
            ORDER BY best.credit DESC, team_id""",
        (*values, limit, offset),
    )
    return [TeamRow._make(r) for r in found]


async def get(connection: Connection, team_id: int) -> TeamRow | None:
    """One team; None when there is none of this id."""
    found = await rows(
        connection,
        f"""SELECT *, 0::float8, 0 FROM (
                {_SUMS} WHERE t.team_id = %s GROUP BY t.team_id) t""",
        (team_id,),
    )
    return TeamRow._make(found[0]) if found else None


async def experiments_of(connection: Connection, team_id: int) -> list[tuple[str, int, float]]:
    """(experiment, results, credit) of a team, the most credit first."""
    found = await rows(
        connection,
        """SELECT e.name, s.results, s.credit::float8
           FROM team_experiments s JOIN experiments e USING (experiment_id)
           WHERE s.team_id = %s ORDER BY s.credit DESC, e.name""",
        (team_id,),
    )
    return [(str(n), int(r), float(c)) for n, r, c in found]


async def members(connection: Connection, team_id: int, limit: int) -> list[LeaderLine]:
    """A team's members who are not hidden, by credit."""
    found = await rows(
        connection,
        f"""SELECT {LEADER_COLUMNS}, 0::float8 FROM users u {WITH_TEAM}
            WHERE u.team_id = %s AND u.shown ORDER BY u.credit_total DESC, u.user_id LIMIT %s""",
        (team_id, limit),
    )
    return [LeaderLine(*r) for r in found]


async def join_team(connection: Connection, user: str, team: str) -> None:
    """Put a user without a team into one, which is created if it is new."""
    await connection.execute("INSERT INTO teams (name) VALUES (%s) ON CONFLICT DO NOTHING", (team,))
    await connection.execute(
        """UPDATE users SET team_id = (SELECT team_id FROM teams WHERE name = %s)
           WHERE name = %s AND team_id IS NULL""",
        (team, user),
    )
