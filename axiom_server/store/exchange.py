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

CANDIDATES = """
WITH mine AS MATERIALIZED (
    SELECT q.* FROM unnest(%(devices)s::text[], %(slots)s::int[]) AS want (device, most)
    CROSS JOIN LATERAL (
        SELECT queue_id, workunit_id, version_id, device, purpose FROM queue
        WHERE host_id = %(host)s AND device = want.device
        ORDER BY queue_id LIMIT want.most FOR UPDATE SKIP LOCKED
    ) q
), pool AS (
    SELECT q.* FROM unnest(%(versions)s::bigint[], %(pool_devices)s::text[], %(quotas)s::int[])
        AS want (version_id, device, most)
    CROSS JOIN LATERAL (
        SELECT queue_id, workunit_id, version_id, device, purpose FROM queue
        WHERE host_id IS NULL AND version_id = want.version_id AND device = want.device
        ORDER BY queue_id
        LIMIT GREATEST(0, want.most - (SELECT count(*) FROM mine WHERE device = want.device))
        FOR UPDATE SKIP LOCKED
    ) q
)
SELECT c.queue_id, c.workunit_id, c.version_id, c.device, c.purpose, w.parameters_id, w.seed
FROM (SELECT 0 AS rank, * FROM mine UNION ALL SELECT 1, * FROM pool) c
JOIN workunits w USING (workunit_id)
ORDER BY c.rank, c.queue_id"""

GRANT = """
WITH gone AS (
    DELETE FROM queue q
    USING unnest(%(queue)s::bigint[], %(seconds)s::float8[]) c (queue_id, seconds)
    WHERE q.queue_id = c.queue_id
    RETURNING q.workunit_id, q.version_id, q.device, q.purpose, q.attempt, c.seconds
)
INSERT INTO tasks (workunit_id, experiment_id, version_id, host_id, user_id, device, purpose,
                   attempt, state, granted_at, deadline_at, granted_by)
SELECT g.workunit_id, v.experiment_id, g.version_id, %(host)s, %(user)s, g.device, g.purpose,
       g.attempt, 'leased', %(now)s, %(now)s + g.seconds * interval '1 second', %(request)s
FROM gone g JOIN versions v USING (version_id)
RETURNING task_id, workunit_id, purpose"""

END_TASKS = """
UPDATE tasks t SET state = 'reported', ended_at = %(now)s, outcome = r.outcome,
    claimed_seconds = r.claimed, elapsed_seconds = r.elapsed, cpu_seconds = r.cpu,
    peak_memory_bytes = r.memory, refusal = r.refusal, message = r.message
FROM unnest(%(task)s::bigint[], %(outcome)s::text[], %(claimed)s::float8[], %(elapsed)s::float8[],
            %(cpu)s::float8[], %(memory)s::bigint[], %(refusal)s::text[], %(message)s::text[])
     AS r (task_id, outcome, claimed, elapsed, cpu, memory, refusal, message)
WHERE t.task_id = r.task_id AND t.state IN ('leased', 'lost')"""

KEEP_RESULTS = """
INSERT INTO results (task_id, workunit_id, version_id, valid, digest, result)
SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::smallint[], %s::bytea[],
                     %s::jsonb[])"""

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
    await connection.execute(
        END_TASKS,
        {
            "now": now,
            "task": [e.task.task_id for e in ended],
            "outcome": [e.outcome for e in ended],
            "claimed": [e.claimed_seconds for e in ended],
            "elapsed": [e.elapsed_seconds for e in ended],
            "cpu": [e.cpu_seconds for e in ended],
            "memory": [e.peak_memory_bytes for e in ended],
            "refusal": [e.refusal for e in ended],
            "message": [e.message for e in ended],
        },
    )
    kept = [e for e in ended if e.result is not None]
    if kept:
        await connection.execute(
            KEEP_RESULTS,
            (
                [e.task.task_id for e in kept],
                [e.task.workunit_id for e in kept],
                [e.task.version_id for e in kept],
                [e.valid for e in kept],
                [e.digest for e in kept],
                [(e.result or b"").decode() for e in kept],
            ),
        )


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
            "devices": list(slots),
            "slots": list(slots.values()),
            "versions": [version for version, _, _ in pools],
            "pool_devices": [device for _, device, _ in pools],
            "quotas": [most for _, _, most in pools],
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
            "queue": [candidate.queue_id for candidate, _ in chosen],
            "seconds": [seconds for _, seconds in chosen],
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
