"""Tasks: leases that expire, what ended lately, what staff see."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from axiom_server.decide.watchdog import Ended, Twin
from axiom_server.store.database import Connection, rows

EXPIRE_MOST = 10_000  # leases in one transaction, so that it stays short
RECENT_MOST = 50  # newest tasks of a version that the watchdog looks at


class TaskLine(NamedTuple):
    """One task as staff see it."""

    task_id: int
    experiment: str
    host_id: int
    device: str
    purpose: str
    state: str
    outcome: str | None
    granted_at: datetime
    deadline_at: datetime
    elapsed_seconds: float | None
    refusal: str
    message: str


async def expire(connection: Connection) -> int:
    """Take back leases past their deadline; their workunits wait again. Returns how many."""
    found = await rows(
        connection,
        f"""WITH late AS (
               SELECT task_id FROM tasks WHERE state = 'leased' AND deadline_at < now()
               ORDER BY deadline_at LIMIT {EXPIRE_MOST} FOR UPDATE SKIP LOCKED
           ), lost AS (
               UPDATE tasks t SET state = 'lost', outcome = 'lost', ended_at = now()
               FROM late WHERE t.task_id = late.task_id
               RETURNING t.workunit_id, t.version_id, t.device, t.purpose, t.attempt
           ), again AS (
               INSERT INTO queue (workunit_id, version_id, device, attempt)
               SELECT l.workunit_id, l.version_id, l.device, l.attempt
               FROM lost l JOIN versions v USING (version_id)
               WHERE l.purpose = 'first' AND v.state = 'active'
               ON CONFLICT (workunit_id, purpose) DO NOTHING
           ), replicas AS (
               UPDATE comparisons c SET state = 'wanted', tries = c.tries + 1
               FROM lost l WHERE c.workunit_id = l.workunit_id AND l.purpose <> 'first'
                 AND c.state = 'placed'
           )
           SELECT count(*) FROM lost""",
    )
    return int(found[0][0])


async def release_held(connection: Connection) -> int:
    """Work made for a host that did not fetch it becomes any host's; replicas are placed anew."""
    await connection.execute(
        """WITH held AS (
               DELETE FROM queue WHERE host_id IS NOT NULL AND purpose <> 'first'
                 AND release_at < now() RETURNING workunit_id)
           UPDATE comparisons c SET state = 'wanted', tries = c.tries + 1
           FROM held WHERE c.workunit_id = held.workunit_id AND c.state = 'placed'"""
    )
    cursor = await connection.execute(
        """UPDATE queue SET host_id = NULL, release_at = NULL
           WHERE host_id IS NOT NULL AND purpose = 'first' AND release_at < now()"""
    )
    return cursor.rowcount


async def recent(connection: Connection, version_id: int) -> list[Ended]:
    """The newest tasks of a version that ended by themselves."""
    found = await rows(
        connection,
        f"""SELECT t.host_id, t.outcome <> 'success' OR t.refusal <> '',
                   COALESCE(t.elapsed_seconds, 0) / GREATEST(p.budget_seconds * h.pace, 0.001)
            FROM (SELECT * FROM tasks
                  WHERE version_id = %s AND ended_at IS NOT NULL
                    AND outcome IN ('success', 'failed', 'timed_out', 'over_memory', 'over_disk')
                  ORDER BY ended_at DESC LIMIT {RECENT_MOST}) t
            JOIN workunits w USING (workunit_id)
            JOIN parameter_sets p USING (parameters_id)
            JOIN hosts h ON h.host_id = t.host_id""",
        (version_id,),
    )
    return [Ended(host_id=h, fault=fault, ratio=ratio) for h, fault, ratio in found]


async def twins(connection: Connection, version_id: int) -> tuple[list[Twin], int]:
    """Valid results of a version that hold the same numbers under different seeds.

    Also the number of hosts that returned results of it.
    """
    found = await rows(
        connection,
        """SELECT array_agg(DISTINCT w.seed), array_agg(DISTINCT t.host_id),
                  array_agg(DISTINCT t.user_id)
           FROM results r JOIN workunits w USING (workunit_id) JOIN tasks t USING (task_id)
           WHERE r.version_id = %s AND r.valid = 1
           GROUP BY w.parameters_id, r.digest HAVING count(DISTINCT w.seed) > 1
           ORDER BY 1 LIMIT 100""",
        (version_id,),
    )
    hosts = await rows(
        connection,
        """SELECT count(DISTINCT t.host_id) FROM results r JOIN tasks t USING (task_id)
           WHERE r.version_id = %s""",
        (version_id,),
    )
    return (
        [
            Twin(seeds=frozenset(seeds), hosts=frozenset(hosts_), users=frozenset(users))
            for seeds, hosts_, users in found
        ],
        int(hosts[0][0]),
    )


async def newly_reported(connection: Connection, seconds: float) -> list[int]:
    """Versions with tasks that ended within the last ``seconds``."""
    found = await rows(
        connection,
        """SELECT v.version_id FROM versions v WHERE v.state = 'active' AND EXISTS (
               SELECT FROM tasks t WHERE t.version_id = v.version_id
               AND t.ended_at > now() - %s * interval '1 second')
           ORDER BY v.version_id""",
        (seconds,),
    )
    return [int(r[0]) for r in found]


async def listing(connection: Connection, state: str | None, most: int) -> list[TaskLine]:
    """Tasks for staff, the newest first."""
    found = await rows(
        connection,
        """SELECT t.task_id, e.name, t.host_id, t.device, t.purpose, t.state, t.outcome,
                  t.granted_at, t.deadline_at, t.elapsed_seconds, t.refusal, t.message
           FROM tasks t JOIN experiments e USING (experiment_id)
           WHERE %s::text IS NULL OR t.state = %s
           ORDER BY t.task_id DESC LIMIT %s""",
        (state, state, most),
    )
    return [TaskLine._make(r) for r in found]
