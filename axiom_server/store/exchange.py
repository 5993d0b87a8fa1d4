"""The statements of one sync: few, and pipelined, because every host makes one a minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import msgspec

from axiom_protocol.messages import HostFacts
from axiom_server.store.database import Connection


class HostRow(NamedTuple):
    """The host that speaks, locked until the transaction ends."""

    host_id: int
    user_id: int | None
    state: str
    state_reason: str
    cpu_cores: int
    gpus: int
    memory_bytes: int
    environments: list[str]
    last_seen_at: datetime | None
    last_request: str
    allowance: float
    failing: int
    agreements: int
    pace: float
    host_total: Decimal
    user_total: Decimal | None
    user_average: float | None
    user_average_at: datetime | None
    pending: int
    now: datetime


class TaskRow(NamedTuple):
    """A task of the host's: leased, or one that a report names."""

    task_id: int
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


class CandidateRow(NamedTuple):
    """A waiting workunit, locked until the transaction ends."""

    queue_id: int
    workunit_id: int
    version_id: int
    device: str
    purpose: str
    parameters_id: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class EndedTask:
    """What is written of a report. ``result`` is its JSON when it passed the gate."""

    task: TaskRow
    outcome: str
    claimed_seconds: float
    elapsed_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    refusal: str
    message: str
    result: bytes | None = None
    valid: int = 0
    digest: bytes = b""


_TASK = """t.task_id, t.workunit_id, t.version_id, w.parameters_id, w.seed, t.device, t.purpose,
    t.attempt, t.state, t.granted_at, t.deadline_at, t.granted_by, t.refusal"""

LOCK_HOST = """
SELECT h.host_id, h.user_id, h.state, h.state_reason, h.cpu_cores, h.gpus, h.memory_bytes,
       h.environments, h.last_seen_at, h.last_request, h.allowance, h.failing, h.agreements, h.pace,
       h.credit_total, u.credit_total, u.average, u.average_at, h.pending,
       clock_timestamp()
FROM hosts h LEFT JOIN users u USING (user_id)
WHERE h.token = %s FOR NO KEY UPDATE OF h"""

LEASED_TASKS = f"""
SELECT {_TASK}
FROM tasks t JOIN workunits w USING (workunit_id)
WHERE t.state = 'leased' AND t.host_id = (SELECT host_id FROM hosts WHERE token = %s)
ORDER BY t.task_id"""

NAMED_TASKS = f"""
SELECT {_TASK}
FROM tasks t JOIN workunits w USING (workunit_id)
WHERE t.task_id = ANY(%s) AND t.host_id = %s
ORDER BY t.task_id FOR NO KEY UPDATE OF t"""

# Lists go in as one JSON parameter each: psycopg takes 170 us to write the eight arrays of one row,
# and 20 us to hand over a text.

CANDIDATES = """
WITH mine AS MATERIALIZED (
    SELECT q.* FROM json_to_recordset(%(slots)s::json) AS want (device text, most int)
    CROSS JOIN LATERAL (
        SELECT queue_id, workunit_id, version_id, device, purpose FROM queue
        WHERE host_id = %(host)s AND device = want.device
        ORDER BY place LIMIT want.most FOR UPDATE SKIP LOCKED
    ) q
), pool AS (
    SELECT q.* FROM json_to_recordset(%(pools)s::json)
        AS want (version_id bigint, device text, most int)
    CROSS JOIN LATERAL (
        SELECT queue_id, workunit_id, version_id, device, purpose FROM queue
        WHERE host_id IS NULL AND version_id = want.version_id AND device = want.device
        ORDER BY place
        LIMIT GREATEST(0, want.most - (SELECT count(*) FROM mine WHERE device = want.device))
        FOR UPDATE SKIP LOCKED
    ) q
)
SELECT c.queue_id, c.workunit_id, c.version_id, c.device, c.purpose, w.parameters_id, w.seed
FROM (SELECT 0 AS rank, * FROM mine UNION ALL SELECT 1, * FROM pool) c
CROSS JOIN LATERAL (  -- OFFSET 0: one look-up each; a plain join may read the whole table
    SELECT parameters_id, seed FROM workunits WHERE workunit_id = c.workunit_id OFFSET 0
) w
ORDER BY c.rank, c.queue_id"""

GRANT = """
WITH gone AS (
    DELETE FROM queue q
    USING json_to_recordset(%(chosen)s::json) AS c (queue_id bigint, seconds float8)
    WHERE q.queue_id = c.queue_id
    RETURNING q.queue_id, q.workunit_id, q.version_id, q.device, q.purpose, q.attempt, c.seconds
)
INSERT INTO tasks (workunit_id, experiment_id, version_id, host_id, user_id, device, purpose,
                   attempt, state, granted_at, deadline_at, granted_by)
SELECT g.workunit_id, v.experiment_id, g.version_id, %(host)s, %(user)s, g.device, g.purpose,
       g.attempt, 'leased', %(now)s, %(now)s + g.seconds * interval '1 second', %(request)s
FROM gone g JOIN versions v USING (version_id) ORDER BY g.queue_id
RETURNING task_id, workunit_id, purpose"""

END_TASKS = """
WITH report AS (
    SELECT * FROM json_to_recordset(%(reports)s::json) AS r (
        task_id bigint, outcome text, claimed float8, elapsed float8, cpu float8, memory bigint,
        refusal text, message text, valid smallint, digest text, result jsonb)
), ended AS (
    UPDATE tasks t SET state = 'reported', ended_at = %(now)s, outcome = r.outcome,
        claimed_seconds = r.claimed, elapsed_seconds = r.elapsed, cpu_seconds = r.cpu,
        peak_memory_bytes = r.memory, refusal = r.refusal, message = r.message
    FROM report r
    WHERE t.task_id = r.task_id AND t.state IN ('leased', 'lost')
    RETURNING t.task_id, t.workunit_id, t.version_id
)
INSERT INTO results (task_id, workunit_id, version_id, valid, digest, result)
SELECT e.task_id, e.workunit_id, e.version_id, r.valid, decode(r.digest, 'hex'), r.result
FROM ended e JOIN report r USING (task_id) WHERE r.valid IS NOT NULL"""

LOSE_TASKS = """
UPDATE tasks SET state = 'lost', outcome = 'lost', ended_at = %s
WHERE task_id = ANY(%s) AND state = 'leased'"""

REQUEUE = """
INSERT INTO queue (workunit_id, version_id, device, purpose, attempt)
SELECT r.workunit_id, r.version_id, r.device, 'first', r.attempt
FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::smallint[])
     AS r (workunit_id, version_id, device, attempt)
JOIN versions v ON v.version_id = r.version_id AND v.state = 'active'
ON CONFLICT (workunit_id, purpose) DO NOTHING"""

#: A replica never waits in the open pool, so one that did not come back is placed anew.
WANT_AGAIN = """
UPDATE comparisons SET state = CASE WHEN state = 'placed' THEN 'wanted' ELSE state END,
    tries = tries + 1
WHERE workunit_id = ANY(%s) AND state IN ('placed', 'disputed')"""

WANT_COMPARISON = """
INSERT INTO comparisons (workunit_id, task_id)
SELECT * FROM unnest(%s::bigint[], %s::bigint[]) ON CONFLICT DO NOTHING"""

UNQUEUE = "DELETE FROM queue WHERE workunit_id = ANY(%s) AND purpose = 'first'"

UPDATE_HOST = """
UPDATE hosts SET last_seen_at = %s, last_request = %s, allowance = %s, failing = %s, pace = %s,
    idle_cpu = %s, idle_gpu = %s, draining = %s, pending = %s
WHERE host_id = %s"""

UPDATE_FACTS = """
UPDATE hosts SET facts = %s::jsonb, name = %s, cpu_cores = %s, gpus = %s, memory_bytes = %s,
    environments = %s
WHERE host_id = %s"""


async def begin(connection: Connection, token: bytes) -> tuple[HostRow | None, list[TaskRow]]:
    """Lock the host that owns the token (its sha256), and read its leased tasks."""
    host = await connection.execute(LOCK_HOST, (token,))
    leased = await connection.execute(LEASED_TASKS, (token,))
    found = await host.fetchone()
    if found is None:
        return None, []
    return HostRow._make(found), [TaskRow._make(row) for row in await leased.fetchall()]


async def named_tasks(connection: Connection, host_id: int, ids: list[int]) -> list[TaskRow]:
    """Tasks of the host's in any state, locked."""
    cursor = await connection.execute(NAMED_TASKS, (ids, host_id))
    return [TaskRow._make(row) for row in await cursor.fetchall()]


async def end_tasks(connection: Connection, ended: Sequence[EndedTask], now: datetime) -> None:
    """Write how tasks ended, and the results that passed the gate."""
    reports = [
        {
            "task_id": end.task.task_id,
            "outcome": end.outcome,
            "claimed": end.claimed_seconds,
            "elapsed": end.elapsed_seconds,
            "cpu": end.cpu_seconds,
            "memory": end.peak_memory_bytes,
            "refusal": end.refusal,
            "message": end.message,
            "valid": end.valid if end.result is not None else None,
            "digest": end.digest.hex(),
            "result": msgspec.Raw(end.result or b"null"),
        }
        for end in ended
    ]
    await connection.execute(END_TASKS, {"now": now, "reports": _json(reports)})


async def lose_tasks(connection: Connection, ids: list[int], now: datetime) -> None:
    """Mark leased tasks as lost."""
    await connection.execute(LOSE_TASKS, (now, ids))


async def requeue(connection: Connection, tasks: Sequence[tuple[TaskRow, int]]) -> None:
    """Let workunits wait again: (task, next attempt). Replicas are placed anew instead."""
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
        await connection.execute(WANT_AGAIN, (replicas,))


async def unqueue(connection: Connection, workunits: list[int]) -> None:
    """A late result came after all: nobody else needs to compute it."""
    await connection.execute(UNQUEUE, (workunits,))


async def want_comparison(connection: Connection, tasks: Sequence[TaskRow]) -> None:
    """Have these results computed again elsewhere."""
    await connection.execute(
        WANT_COMPARISON, ([t.workunit_id for t in tasks], [t.task_id for t in tasks])
    )


async def leased_by_user(connection: Connection, user_id: int) -> int:
    """Tasks in the hands of all of a user's hosts."""
    cursor = await connection.execute(
        """SELECT count(*) FROM tasks t JOIN hosts h USING (host_id)
           WHERE h.user_id = %s AND t.state = 'leased'""",
        (user_id,),
    )
    found = await cursor.fetchone()
    return int(found[0]) if found else 0


async def candidates(
    connection: Connection,
    host_id: int,
    slots: dict[str, int],
    pools: Sequence[tuple[int, str, int]],
) -> list[CandidateRow]:
    """Offer workunits made for this host first, then ``(version, device, most)`` of each pool."""
    cursor = await connection.execute(
        CANDIDATES,
        {
            "host": host_id,
            "slots": _json([{"device": d, "most": most} for d, most in slots.items() if most]),
            "pools": _json([{"version_id": v, "device": d, "most": m} for v, d, m in pools]),
        },
    )
    return [CandidateRow._make(row) for row in await cursor.fetchall()]


async def grant(
    connection: Connection,
    host: HostRow,
    request_id: str,
    chosen: Sequence[tuple[CandidateRow, float]],
) -> dict[tuple[int, str], int]:
    """Lease candidates for so many seconds each; (workunit, purpose) -> task."""
    cursor = await connection.execute(
        GRANT,
        {
            "chosen": _json([{"queue_id": c.queue_id, "seconds": s} for c, s in chosen]),
            "host": host.host_id,
            "user": host.user_id,
            "now": host.now,
            "request": request_id,
        },
    )
    return {(workunit, purpose): task for task, workunit, purpose in await cursor.fetchall()}


async def update_facts(connection: Connection, host_id: int, facts: HostFacts) -> None:
    """The host changed."""
    await connection.execute(
        UPDATE_FACTS,
        (
            msgspec.json.encode(facts).decode(),
            facts.name,
            facts.cpu_cores,
            len(facts.gpus),
            facts.memory_bytes,
            list(facts.environments),
            host_id,
        ),
    )


async def update_host(
    connection: Connection,
    host: HostRow,
    request_id: str,
    *,
    allowance: float,
    failing: int,
    pace: float,
    idle: tuple[int, int],
    draining: str,
    pending: int,
) -> None:
    """What the host said last, and what is thought of it. ``pending``: reports it just made."""
    await connection.execute(
        UPDATE_HOST,
        (
            host.now, request_id, allowance, failing, pace, idle[0], idle[1], draining,
            host.pending + pending, host.host_id,
        ),
    )  # fmt: skip


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
