"""Sums for pages and exports: updated by reviews, read by every page.

Counts over the whole project are a snapshot, taken by the periodic work.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

import msgspec

from axiom_server.store import overview, session_sums, workunits
from axiom_server.store.database import Connection, as_json, row, rows

SNAPSHOT_SECONDS = 60.0  # between two snapshots
DAY_LEADERS = 2_000  # users ranked by their credit of the last day
STALE_SECONDS = 600.0  # an older snapshot means that no process does the periodic work


class DayLine(NamedTuple):
    """One day's results and credit."""

    day: date
    results: int
    credit: float


class SessionLine(NamedTuple):
    """The results and credit of one user or host in one session."""

    session_id: int
    opened_at: datetime
    results: int
    credit: float


async def record_session(connection: Connection, session_id: int) -> None:
    """Add a session's ledger entries to the sums, in the caller's transaction."""
    await connection.execute(
        """INSERT INTO user_sessions
           SELECT user_id, session_id, count(*), sum(amount), count(DISTINCT host_id),
                  (array_agg(DISTINCT host_id))[1:3] FROM credit
           WHERE session_id = %s AND user_id IS NOT NULL GROUP BY 1, 2 ORDER BY 1""",
        (session_id,),
    )
    await connection.execute(
        """INSERT INTO host_sessions SELECT host_id, session_id, count(*), sum(amount) FROM credit
           WHERE session_id = %s GROUP BY 1, 2 ORDER BY 1""",
        (session_id,),
    )
    for table, source, keys in _ADDED:
        await connection.execute(
            f"""INSERT INTO {table} AS t SELECT {keys}, count(*), sum(amount) FROM {source}
                WHERE session_id = %s GROUP BY 1, 2 ORDER BY 1, 2
                ON CONFLICT ON CONSTRAINT {table}_pkey DO UPDATE
                    SET results = t.results + excluded.results,
                        credit = t.credit + excluded.credit""",
            (session_id,),
        )
    await session_sums.record_credit(connection, session_id)


_DAY = "(opened_at AT TIME ZONE 'UTC')::date"
_OF_USERS = "(SELECT * FROM credit WHERE user_id IS NOT NULL) c"
_OF_TEAMS = """(SELECT c.*, u.team_id, s.opened_at FROM credit c JOIN sessions s USING (session_id)
               JOIN users u ON u.user_id = c.user_id WHERE u.team_id IS NOT NULL) c"""
#: Sums over sessions: the table, what is summed up, and the columns of its key.
_ADDED = (
    ("user_experiments", _OF_USERS, "user_id, experiment_id"),
    ("experiment_days", "credit JOIN sessions USING (session_id)", f"experiment_id, {_DAY}"),
    ("team_days", _OF_TEAMS, f"team_id, {_DAY}"),
    ("team_experiments", _OF_TEAMS, "team_id, experiment_id"),
)


async def record_outcomes(connection: Connection, tasks: Sequence[int]) -> None:
    """Count how these reviewed tasks ended, by host."""
    await connection.execute(
        """INSERT INTO host_outcomes AS t
           SELECT host_id, CASE WHEN refusal <> '' THEN 'refused' ELSE outcome END, count(*)
           FROM tasks WHERE task_id = ANY(%s) AND outcome IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2
           ON CONFLICT (host_id, outcome) DO UPDATE SET tasks = t.tasks + excluded.tasks""",
        (list(tasks),),
    )


async def project_days(connection: Connection, days: int) -> list[DayLine]:
    """Results and credit of the whole project on its last days, the oldest first."""
    found = await rows(
        connection,
        """SELECT (opened_at AT TIME ZONE 'UTC')::date, sum(results)::bigint, sum(credit)::float8
           FROM sessions WHERE opened_at > now() - %s * interval '1 day' GROUP BY 1 ORDER BY 1""",
        (days,),
    )
    return [DayLine._make(r) for r in found]


async def days_of(connection: Connection, kind: str, owner: int, days: int) -> list[DayLine]:
    """Results and credit of one user, host, team or experiment (``kind``) on the last days."""
    query = _DAYS_OF_SESSIONS if kind in _SESSIONS else _DAYS
    table, key = _SESSIONS.get(kind) or _DAY_TABLES[kind]
    found = await rows(connection, query.format(table=table, key=key), (owner, days))
    return [DayLine._make(r) for r in found]


_SESSIONS = {"user": ("user_sessions", "user_id"), "host": ("host_sessions", "host_id")}
_DAY_TABLES = {
    "team": ("team_days", "team_id"), "experiment": ("experiment_days", "experiment_id")
}  # fmt: skip
#: By the sessions since then: the owner's own go back to the project's beginning.
_DAYS_OF_SESSIONS = """SELECT (s.opened_at AT TIME ZONE 'UTC')::date, sum(o.results)::bigint,
           sum(o.credit)::float8
    FROM {table} o JOIN sessions s USING (session_id)
    WHERE o.{key} = %s AND s.opened_at > now() - %s * interval '1 day' GROUP BY 1 ORDER BY 1"""
_DAYS = """SELECT day, results, credit::float8 FROM {table}
    WHERE {key} = %s AND day > (now() AT TIME ZONE 'UTC')::date - %s ORDER BY day"""


async def sessions_of(
    connection: Connection, kind: str, owner: int, limit: int
) -> list[SessionLine]:
    """Results and credit of one user or host in its latest sessions, the newest first."""
    table, key = _SESSIONS[kind]
    found = await rows(
        connection,
        f"""SELECT s.session_id, s.opened_at, o.results, o.credit::float8
            FROM {table} o JOIN sessions s USING (session_id)
            WHERE o.{key} = %s ORDER BY o.session_id DESC LIMIT %s""",
        (owner, limit),
    )
    return [SessionLine._make(r) for r in found]


async def snapshot(connection: Connection) -> dict[str, Any]:
    """The project's last snapshot, with its time "at"; taken now when the last one is stale."""
    found = await rows(
        connection,
        """SELECT content FROM snapshots WHERE name = 'project'
           AND at > now() - %s * interval '1 second'""",
        (STALE_SECONDS,),
    )
    return found[0][0] if found else await _count(connection)


async def work_of(connection: Connection, version_id: int) -> tuple[int, int]:
    """How many workunits of a version wait, and how many tasks of it run, as last counted."""
    found = (await snapshot(connection)).get("versions", {})
    waiting, running = found.get(str(version_id), (0, 0))
    return int(waiting), int(running)


async def refresh(connection: Connection) -> bool:
    """Take a snapshot when the last one is old enough; False when it is not."""
    found = await rows(
        connection,
        """SELECT 1 FROM snapshots WHERE name = 'project'
           AND at > now() - %s * interval '1 second'""",
        (SNAPSHOT_SECONDS,),
    )
    if found:
        return False
    await connection.execute(
        """INSERT INTO snapshots VALUES ('project', now(), %s::jsonb)
           ON CONFLICT (name) DO UPDATE SET at = excluded.at, content = excluded.content""",
        (as_json(await _count(connection)),),
    )
    await _rank_day(connection)
    return True


async def _rank_day(connection: Connection) -> None:
    """Store the ranking of users by their credit of the last day."""
    await connection.execute(
        """INSERT INTO snapshots SELECT 'day', now(), COALESCE(jsonb_agg(d), '[]') FROM (
               SELECT user_id, sum(credit) AS earned FROM user_sessions
               WHERE session_id IN (SELECT session_id FROM sessions
                                    WHERE opened_at > now() - interval '1 day')
               GROUP BY user_id ORDER BY 2 DESC, 1 LIMIT %s) d
           ON CONFLICT (name) DO UPDATE SET at = excluded.at, content = excluded.content""",
        (DAY_LEADERS,),
    )


async def _count(connection: Connection) -> dict[str, Any]:
    counted = await overview.totals(connection)
    found = await row(
        connection,
        """SELECT count(*) FILTER (WHERE live AND busy),
                  COALESCE(sum(cores) FILTER (WHERE live), 0),
                  COALESCE(sum(gpus) FILTER (WHERE live), 0), now()
           FROM (SELECT cpu_cores AS cores, gpus,
                        last_seen_at > now() - interval '30 minutes' AND NOT imported AS live,
                        idle_cpu < cpu_cores OR idle_gpu < gpus AS busy FROM hosts) AS h""",
    )
    day = await row(
        connection,
        """SELECT COALESCE(sum(results), 0)::bigint, COALESCE(sum(credit), 0)::float8
           FROM sessions WHERE opened_at > now() - interval '1 day'""",
    )
    more = {
        "busy_hosts": found[0], "cores": int(found[1]), "gpus": int(found[2]),
        "results_last_day": day[0], "credit_last_day": day[1],
    }  # fmt: skip
    for table in ("users", "hosts"):
        more |= await _credited(connection, table)
    counted["totals"] |= more
    made = {
        **counted, "at": found[3], "teams": await _teams(connection),
        "versions": await workunits.counts_by_version(connection),
    }  # fmt: skip
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
    return decoded


async def _credited(connection: Connection, table: str) -> dict[str, int]:
    """How many users or hosts have credit, have recent credit, or are new, as BOINC counts."""
    found = await row(
        connection,
        f"""SELECT count(*) FILTER (WHERE credit_total > 1), count(*) FILTER (WHERE average > 1),
                   count(*) FILTER (WHERE created_at > now() - interval '1 day') FROM {table}""",
    )
    names = (f"{table}_with_credit", f"{table}_with_recent_credit", f"new_{table}")
    return dict(zip(names, found, strict=True))


async def _teams(connection: Connection) -> int:
    return int((await row(connection, "SELECT count(*) FROM teams"))[0])
