"""The tasks in a sync request: read them, store how they ended, queue their workunits again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from msgspec import Raw, Struct

from axiom_protocol.messages import Outcome
from axiom_server.store.database import Connection, as_json


class TaskRow(NamedTuple):
    """A task that is leased to a syncing host, or that one of its reports names.

    ``outcome``: as it was reported; None while no report has ended it.
    """

    task_id: int
    host_id: int
    workunit_id: int
    version_id: int
    parameters_id: int
    seed: int
    device: str
    purpose: str
    attempt: int
    state: str
    granted_at: datetime
    deadline_at: datetime
    granted_by: str
    refusal: str
    outcome: str | None = None

    @property
    def counts_as_lost(self) -> bool:
        """Whether the host lost it, by the server's record or by its own report.

        A power cut can take an agent back to a time before that report; then it computes the task.
        """
        return self.state == "lost" or self.outcome == "lost"


class EndedTask(Struct, frozen=True, kw_only=True):
    """How a task ended; fields are named as END_TASKS reads them.

    ``valid``, ``digest`` (sha256 in hexadecimal) and ``result`` are set only for a result that
    passed the schema check; ``validated`` if the result needs no confirmation.
    """

    task_id: int
    outcome: Outcome
    claimed_seconds: float
    elapsed_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    refusal: str = ""
    message: str
    valid: int | None = None
    digest: str = ""
    result: Raw = Raw(b"null")
    validated: bool = False


_TASK = """t.task_id, t.host_id, t.workunit_id, t.version_id, w.parameters_id, w.seed, t.device,
    t.purpose, t.attempt, t.state, t.granted_at, t.deadline_at, t.granted_by, t.refusal,
    t.outcome"""


LEASED_TASKS = f"""
SELECT {_TASK}
FROM tasks t JOIN workunits w USING (workunit_id)
WHERE t.state = 'leased' AND t.host_id IN (SELECT host_id FROM hosts WHERE token = ANY(%s))
ORDER BY t.task_id"""


TASKS_BY_ID = f"""
SELECT {_TASK}
FROM tasks t JOIN workunits w USING (workunit_id)
WHERE t.task_id = ANY(%s) AND t.host_id = ANY(%s)
ORDER BY t.task_id"""


# The results pass through RETURNING: joining them to the parameter again would compare all pairs.
END_TASKS = """
WITH ended AS (
    UPDATE tasks t SET state = 'reported', ended_at = %(now)s, outcome = r.outcome,
        claimed_seconds = r.claimed_seconds, elapsed_seconds = r.elapsed_seconds,
        cpu_seconds = r.cpu_seconds, peak_memory_bytes = r.peak_memory_bytes,
        refusal = r.refusal, message = r.message
    FROM json_to_recordset(%(ended)s::json) AS r (
        task_id bigint, outcome text, claimed_seconds float8, elapsed_seconds float8,
        cpu_seconds float8, peak_memory_bytes bigint, refusal text, message text, valid smallint,
        digest text, result jsonb, validated boolean)
    WHERE t.task_id = r.task_id
      AND (t.state IN ('leased', 'lost') OR t.outcome = 'lost' AND r.outcome = 'success')
    RETURNING t.task_id, t.workunit_id, t.version_id, r.valid, r.digest, r.result, r.validated
)
INSERT INTO results (task_id, workunit_id, version_id, valid, digest, result, validated)
SELECT task_id, workunit_id, version_id, valid, decode(digest, 'hex'), result, validated
FROM ended WHERE valid IS NOT NULL"""


MARK_LOST = """
UPDATE tasks SET state = 'lost', outcome = 'lost', ended_at = %s
WHERE task_id = ANY(%s) AND state = 'leased'"""


REQUEUE = """
INSERT INTO queue (workunit_id, version_id, device, purpose, attempt)
SELECT r.workunit_id, r.version_id, r.device, 'first', r.attempt
FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::smallint[])
     AS r (workunit_id, version_id, device, attempt)
JOIN versions v ON v.version_id = r.version_id AND v.state = 'active'
ON CONFLICT (workunit_id, purpose) DO NOTHING"""


#: Replicas never wait for any host, so a lost replica is assigned to another host.
REPLACE_REPLICAS = """
UPDATE comparisons SET state = CASE WHEN state = 'placed' THEN 'wanted' ELSE state END,
    tries = tries + 1
WHERE workunit_id = ANY(%s) AND state IN ('placed', 'disputed')"""


REQUEST_COMPARISONS = """
INSERT INTO comparisons (workunit_id, task_id)
SELECT * FROM unnest(%s::bigint[], %s::bigint[]) ON CONFLICT DO NOTHING"""


#: A late result of a workunit that others have computed meanwhile reopens the settled comparison,
#: so that no result is credited without a comparison.
COMPARE_LATE = """
INSERT INTO comparisons AS c (workunit_id, task_id)
SELECT l.workunit_id, min(l.task_id) FROM unnest(%s::bigint[], %s::bigint[])
     AS l (workunit_id, task_id)
WHERE EXISTS (SELECT FROM tasks o JOIN results r USING (task_id)
              WHERE o.workunit_id = l.workunit_id AND o.task_id <> l.task_id)
GROUP BY l.workunit_id ORDER BY l.workunit_id
ON CONFLICT (workunit_id) DO UPDATE SET state = 'wanted', settled_at = NULL
    WHERE c.state IN ('agreed', 'settled', 'given_up')"""


REMOVE_FROM_QUEUE = "DELETE FROM queue WHERE workunit_id = ANY(%s) AND purpose = 'first'"


async def tasks_by_id(connection: Connection, hosts: list[int], ids: list[int]) -> list[TaskRow]:
    """Tasks with these ids, in any state, that belong to these hosts."""
    cursor = await connection.execute(TASKS_BY_ID, (ids, hosts))
    return [TaskRow._make(row) for row in await cursor.fetchall()]


async def end_tasks(connection: Connection, ended: Sequence[EndedTask], now: datetime) -> None:
    """Store how tasks ended, and the results that passed the schema check."""
    if ended:
        await connection.execute(END_TASKS, {"now": now, "ended": as_json(ended)})


async def mark_lost(connection: Connection, ids: list[int], now: datetime) -> None:
    """Mark leased tasks as lost."""
    if ids:
        await connection.execute(MARK_LOST, (now, ids))


async def requeue(connection: Connection, tasks: Sequence[tuple[TaskRow, int]]) -> None:
    """Queue workunits again: (task, next attempt). Replicas go to another host instead."""
    firsts = [(task, attempt) for task, attempt in tasks if task.purpose == "first"]
    if firsts:
        await connection.execute(
            REQUEUE,
            (
                [task.workunit_id for task, _ in firsts],
                [task.version_id for task, _ in firsts],
                [task.device for task, _ in firsts],
                [attempt for _, attempt in firsts],
            ),
        )
    replicas = [task.workunit_id for task, _ in tasks if task.purpose != "first"]
    if replicas:
        await connection.execute(REPLACE_REPLICAS, (replicas,))


async def remove_from_queue(connection: Connection, workunits: list[int]) -> None:
    """Remove workunits from the queue whose result has arrived late."""
    if workunits:
        await connection.execute(REMOVE_FROM_QUEUE, (workunits,))


async def request_comparisons(connection: Connection, tasks: Sequence[TaskRow]) -> None:
    """Request that these results are computed again on another host."""
    if tasks:
        await connection.execute(
            REQUEST_COMPARISONS, ([t.workunit_id for t in tasks], [t.task_id for t in tasks])
        )


async def compare_late(connection: Connection, tasks: Sequence[TaskRow]) -> None:
    """Compare late results with those of the hosts that computed the workunits instead."""
    if tasks:
        await connection.execute(
            COMPARE_LATE, ([t.workunit_id for t in tasks], [t.task_id for t in tasks])
        )
