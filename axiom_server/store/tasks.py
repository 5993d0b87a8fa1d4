"""Tasks: expire leases, release reserved workunits, and read recent tasks for the watchdog."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from axiom_server.decide.retry import LOSSES_MAX
from axiom_server.decide.watchdog import OtherUsers, RecentTask, SameNumbers
from axiom_server.store.database import Connection, rows
from axiom_server.store.owner_locks import lock_owners

STATES = ("leased", "reported", "reviewed", "lost")
EXPIRED_MAX = 10_000  # leases in one transaction, to keep it short
RECENT_TASKS_MAX = 50  # newest tasks of a version that the watchdog examines
FAULT_TASKS_MAX = 1_000  # newest tasks of a version that are searched for faults by host
FAULT_WINDOW_SECONDS = 86400.0
SAME_RESULTS_MAX = 1_000  # newest results of a version that are searched for equal ones


class TaskLine(NamedTuple):
    """One task, as listed for staff."""

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


async def expire(connection: Connection, silent_seconds: float) -> int:
    """End leases past their deadline, and those of hosts that have been silent too long.

    Their workunits are queued again. Returns the number of leases.
    """
    found = await rows(
        connection,
        f"""WITH late AS (
               SELECT task_id FROM tasks WHERE state = 'leased' AND deadline_at < now()
               ORDER BY deadline_at LIMIT {EXPIRED_MAX} FOR UPDATE SKIP LOCKED
           ), silent AS (
               SELECT t.task_id FROM tasks t JOIN hosts h USING (host_id)
               WHERE t.state = 'leased' AND h.last_seen_at < now() - %s * interval '1 second'
               LIMIT {EXPIRED_MAX} FOR UPDATE OF t SKIP LOCKED
           ), lost AS (
               UPDATE tasks t SET state = 'lost', outcome = 'lost', ended_at = now()
               WHERE t.task_id IN (SELECT task_id FROM late UNION SELECT task_id FROM silent)
               RETURNING t.workunit_id, t.version_id, t.device, t.purpose, t.attempt, t.user_id
           ), again AS (
               INSERT INTO queue (workunit_id, version_id, device, attempt)
               SELECT l.workunit_id, l.version_id, l.device, l.attempt + 1
               FROM lost l JOIN versions v USING (version_id)
               WHERE l.purpose = 'first' AND v.state = 'active' AND l.attempt < {LOSSES_MAX}
               ON CONFLICT (workunit_id, purpose) DO NOTHING
           ), replicas AS (
               UPDATE comparisons c SET state = 'wanted', tries = c.tries + 1
               FROM lost l WHERE c.workunit_id = l.workunit_id AND l.purpose <> 'first'
                 AND c.state = 'placed'
           )
           SELECT user_id, count(*) FROM lost GROUP BY user_id""",
        (silent_seconds,),
    )
    lost_by_user = {int(user): int(tasks) for user, tasks in found if user is not None}
    await lock_owners(connection, (), lost_by_user)
    await connection.execute(
        """UPDATE users u SET returned = LEAST(u.returned + lost.tasks, 1000), returned_at = now()
           FROM unnest(%s::bigint[], %s::int[]) AS lost (user_id, tasks)
           WHERE u.user_id = lost.user_id""",
        (list(lost_by_user), list(lost_by_user.values())),
    )
    return sum(int(tasks) for _, tasks in found)


#: SQL: the reservation has ended. A missing or far release time comes from a wrong clock; it counts
#: as ended too.
HOLD_ENDED = """host_id IS NOT NULL AND (release_at < now() OR release_at IS NULL
    OR release_at > now() + %(limit)s * interval '1 second')"""


async def release_held(connection: Connection, hold_seconds_max: float) -> int:
    """End overdue reservations, so that any host may get the workunits; returns how many.

    Replicas are assigned to another host instead.

    hold_seconds_max  longest time for which a workunit may be reserved
    """
    limit = {"limit": hold_seconds_max}
    await connection.execute(
        f"""WITH held AS (
               DELETE FROM queue WHERE {HOLD_ENDED} AND purpose <> 'first' RETURNING workunit_id)
           UPDATE comparisons c SET state = 'wanted', tries = c.tries + 1
           FROM held WHERE c.workunit_id = held.workunit_id AND c.state = 'placed'""",
        limit,
    )
    cursor = await connection.execute(
        f"""UPDATE queue SET host_id = NULL, release_at = NULL
           WHERE {HOLD_ENDED} AND purpose = 'first'""",
        limit,
    )
    return cursor.rowcount


#: SQL: staff or other accounts vouch for host ``h`` or its user ``u``; see ``standing.is_known``.
KNOWN = "(h.trusted OR COALESCE(u.vouched, false) OR COALESCE(u.validated, 0) > 0)"
#: SQL: the account of a task ``t``: its user, or its host if it has no user.
ACCOUNT = "COALESCE(t.user_id, -t.host_id)"

#: SQL: task ``s`` ended on its own, on a host that is not quarantined, and was not refuted by other
#: hosts. In all other cases the experiment is not at fault.
ENDED_ON_ITS_OWN = """ended_at IS NOT NULL
    AND (s.outcome IN ('success', 'failed', 'timed_out', 'over_memory', 'over_disk')
         OR s.outcome = 'lost' AND s.state <> 'lost')
    AND NOT EXISTS (SELECT FROM hosts q WHERE q.host_id = s.host_id AND q.state = 'quarantined')
    AND NOT EXISTS (SELECT FROM mismatches m WHERE m.task_id = s.task_id)"""


#: A task's share of a GPU's cohort may be a thousandth of the seconds that it takes on a core; an
#: experiment is not stopped for that.
GPU_RATIO_MIN = 0.01


async def recently_ended(connection: Connection, version_id: int, known: bool) -> list[RecentTask]:
    """The newest tasks of a version that ended on their own; with ``known``, of known accounts."""
    found = await rows(
        connection,
        f"""SELECT {ACCOUNT}, t.outcome <> 'success' OR t.refusal <> '',
                   COALESCE(t.elapsed_seconds, 0) / GREATEST(p.budget_seconds * h.pace, 0.001),
                   COALESCE(t.elapsed_seconds, 0), t.device
            FROM (SELECT s.* FROM tasks s JOIN hosts h USING (host_id)
                  LEFT JOIN users u ON u.user_id = s.user_id
                  WHERE version_id = %s AND {ENDED_ON_ITS_OWN} AND ({KNOWN} OR NOT %s)
                  ORDER BY ended_at DESC LIMIT {RECENT_TASKS_MAX}) t
            JOIN workunits w USING (workunit_id)
            JOIN parameter_sets p USING (parameters_id)
            JOIN hosts h ON h.host_id = t.host_id""",
        (version_id, known),
    )
    return [
        RecentTask(
            account_id=h,
            fault=fault,
            elapsed_seconds=elapsed,
            ratio=max(ratio, GPU_RATIO_MIN) if device == "gpu" and ratio > 0 else ratio,
        )
        for h, fault, ratio, elapsed, device in found
    ]


async def newest_faults(connection: Connection, version_id: int, known: bool) -> dict[int, bool]:
    """Accounts that computed a version within a day, and whether the newest task of each failed."""
    found = await rows(
        connection,
        f"""SELECT DISTINCT ON ({ACCOUNT}) {ACCOUNT}, t.outcome <> 'success' OR t.refusal <> ''
            FROM (SELECT s.* FROM tasks s JOIN hosts h USING (host_id)
                  LEFT JOIN users u ON u.user_id = s.user_id
                  WHERE version_id = %s AND {ENDED_ON_ITS_OWN} AND ({KNOWN} OR NOT %s)
                    AND ended_at > now() - %s * interval '1 second'
                  ORDER BY ended_at DESC LIMIT {FAULT_TASKS_MAX}) t
            ORDER BY {ACCOUNT}, t.ended_at DESC, t.task_id DESC""",
        (version_id, known, FAULT_WINDOW_SECONDS),
    )
    return dict(found)


async def accounts_running_longer(
    connection: Connection, version_id: int, seconds: float, known: bool
) -> set[int]:
    """Accounts with a task of the version that has run for longer than ``seconds``."""
    found = await rows(
        connection,
        f"""SELECT DISTINCT {ACCOUNT} FROM tasks t JOIN hosts h USING (host_id)
           LEFT JOIN users u ON u.user_id = t.user_id
           WHERE t.state = 'leased' AND t.version_id = %s AND h.failing = 0
             AND ({KNOWN} OR NOT %s)
             AND h.last_seen_at - t.granted_at > %s * interval '1 second'""",
        (version_id, known, seconds),
    )
    return {int(r[0]) for r in found}


async def same_numbers(connection: Connection, version_id: int, known: bool) -> list[SameNumbers]:
    """Results among a version's newest valid ones that another seed gave too.

    With ``known``, of known accounts only.
    """
    found = await rows(
        connection,
        f"""WITH fresh AS (
               SELECT DISTINCT w.parameters_id, r.digest
               FROM (SELECT task_id, workunit_id FROM tasks
                     WHERE version_id = %(version)s AND ended_at IS NOT NULL
                       AND outcome = 'success' AND refusal = ''
                     ORDER BY ended_at DESC LIMIT {SAME_RESULTS_MAX}) t
               JOIN results r USING (task_id) JOIN workunits w ON w.workunit_id = t.workunit_id
               WHERE r.valid = 1 AND EXISTS (
                   SELECT FROM results o WHERE o.version_id = %(version)s
                     AND o.digest = r.digest AND o.workunit_id <> r.workunit_id)
           ), same AS (
               SELECT f.parameters_id, f.digest, o.seed, o.host_id, o.user_id
               FROM fresh f CROSS JOIN LATERAL (
                   SELECT w.seed, t.host_id, t.user_id
                   FROM results r JOIN workunits w USING (workunit_id) JOIN tasks t USING (task_id)
                   JOIN hosts h USING (host_id) LEFT JOIN users u ON u.user_id = t.user_id
                   WHERE r.version_id = %(version)s AND r.digest = f.digest AND r.valid = 1
                     AND ({KNOWN} OR NOT %(known)s)
                     AND w.parameters_id = f.parameters_id LIMIT {SAME_RESULTS_MAX}) o
           ), hosts AS (
               SELECT parameters_id, digest, host_id, count(DISTINCT seed) AS seeds
               FROM same GROUP BY 1, 2, 3
           )
           SELECT array_agg(DISTINCT s.seed), array_agg(DISTINCT s.user_id),
                  (SELECT json_object_agg(h.host_id, h.seeds) FROM hosts h
                   WHERE h.parameters_id = s.parameters_id AND h.digest = s.digest)
           FROM same s GROUP BY s.parameters_id, s.digest HAVING count(DISTINCT s.seed) > 1
           ORDER BY 1""",
        {"version": version_id, "known": known},
    )
    return [
        SameNumbers(
            seeds=frozenset(seeds),
            users=frozenset(users),
            repeats={int(h): n for h, n in repeats.items()},
        )
        for seeds, users, repeats in found
    ]


async def other_users(
    connection: Connection, version_id: int, live_users: int, known: bool
) -> OtherUsers:
    """Users most of whose newest valid results no other seed gave, and users who compute it now."""
    others = await rows(
        connection,
        f"""WITH newest AS (
               SELECT t.user_id, w.parameters_id, w.seed, r.digest
               FROM (SELECT task_id, workunit_id, user_id, host_id FROM tasks
                     WHERE version_id = %s AND ended_at IS NOT NULL
                       AND outcome = 'success' AND refusal = ''
                     ORDER BY ended_at DESC LIMIT {SAME_RESULTS_MAX}) t
               JOIN results r USING (task_id) JOIN workunits w ON w.workunit_id = t.workunit_id
               JOIN hosts h ON h.host_id = t.host_id LEFT JOIN users u ON u.user_id = t.user_id
               WHERE r.valid = 1 AND ({KNOWN} OR NOT %s)
           )
           SELECT n.user_id FROM newest n CROSS JOIN LATERAL (
               SELECT NOT EXISTS (
                   SELECT FROM newest o WHERE o.parameters_id = n.parameters_id
                     AND o.digest = n.digest AND o.seed <> n.seed) AS differs) d
           GROUP BY n.user_id HAVING count(*) FILTER (WHERE d.differs) * 2 > count(*)""",
        (version_id, known),
    )
    waiting = await rows(
        connection,
        f"""SELECT DISTINCT t.user_id FROM tasks t JOIN hosts h USING (host_id)
            LEFT JOIN users u ON u.user_id = t.user_id
            WHERE t.state = 'leased' AND t.version_id = %s AND ({KNOWN} OR NOT %s)""",
        (version_id, known),
    )
    return OtherUsers(
        others=frozenset(r[0] for r in others),
        waiting=frozenset(r[0] for r in waiting),
        only=live_users < 2,
    )


async def versions_reported_since(connection: Connection, seconds: float) -> list[int]:
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


async def listing(connection: Connection, state: str | None, limit: int) -> list[TaskLine]:
    """Tasks for staff, the newest first."""
    found = await rows(
        connection,
        """SELECT t.task_id, e.name, t.host_id, t.device, t.purpose, t.state, t.outcome,
                  t.granted_at, t.deadline_at, t.elapsed_seconds, t.refusal, t.message
           FROM tasks t JOIN experiments e USING (experiment_id)
           WHERE %s::text IS NULL OR t.state = %s
           ORDER BY t.task_id DESC LIMIT %s""",
        (state, state, limit),
    )
    return [TaskLine._make(r) for r in found]
