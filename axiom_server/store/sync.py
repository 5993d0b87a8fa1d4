"""The statements of a sync: few, pipelined, and each for all the hosts of one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct

from axiom_protocol.messages import HostFacts, Outcome
from axiom_server.store.database import Connection

USER_LOCK = 0x75736572  # "user"


class HostRow(NamedTuple):
    """A host that speaks, locked until the transaction ends."""

    token: bytes
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


class CandidateRow(NamedTuple):
    """A waiting workunit, locked until the transaction ends. ``host_id``: whom it was made for."""

    queue_id: int
    host_id: int | None
    workunit_id: int
    version_id: int
    device: str
    purpose: str
    parameters_id: int
    seed: int


class EndedTask(Struct, frozen=True, kw_only=True):
    """What is written of a report, by the names that END_TASKS reads.

    ``result`` is there when it passed the gate, with its ``valid`` and its sha256 in hexadecimal.
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


class Lease(Struct, frozen=True, kw_only=True):
    """What a host is granted, by the names that GRANT reads. ``request``: whose answer it is in."""

    queue_id: int
    experiment_id: int
    host_id: int
    user_id: int | None
    request: str
    seconds: float


class HostUpdate(Struct, frozen=True, kw_only=True):
    """What a host said last, and what is thought of it. ``pending``: reports it just made."""

    host_id: int
    request: str
    allowance: float
    failing: int
    pace: float
    idle_cpu: int
    idle_gpu: int
    draining: str
    pending: int


#: Each statement finds few rows by a key. A plan that was made while a table was small, and kept,
#: must not read all of it when it has grown, and a list of another length needs no other plan.
#: (So no statement here may join two lists of its own.)
PREFER_INDEXES = """
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true),
       set_config('plan_cache_mode', 'force_generic_plan', true)"""

LOCK_HOSTS = """
SELECT h.token, h.host_id, h.user_id, h.state, h.state_reason, h.cpu_cores, h.gpus, h.memory_bytes,
       h.environments, h.last_seen_at, h.last_request, h.allowance, h.failing, h.agreements, h.pace,
       h.credit_total, u.credit_total, u.average, u.average_at, h.pending,
       clock_timestamp()
FROM hosts h LEFT JOIN users u USING (user_id)
WHERE h.token = ANY(%s) ORDER BY h.host_id FOR NO KEY UPDATE OF h"""

LOCK_UNLOCKED_HOSTS = LOCK_HOSTS + " SKIP LOCKED"

_TASK = """t.task_id, t.host_id, t.workunit_id, t.version_id, w.parameters_id, w.seed, t.device,
    t.purpose, t.attempt, t.state, t.granted_at, t.deadline_at, t.granted_by, t.refusal"""

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

# Lists go in as one JSON parameter each: psycopg takes 170 us to write the eight arrays of one row,
# and 20 us to hand over a text. LATERAL with OFFSET 0 is one look-up for each row, whatever the
# planner believes.

RESERVED_WORKUNITS = """
SELECT q.queue_id, q.host_id, q.workunit_id, q.version_id, q.device, q.purpose,
       w.parameters_id, w.seed
FROM json_to_recordset(%s::json) AS want (host_id bigint, device text, row_limit int)
CROSS JOIN LATERAL (
    SELECT * FROM queue
    WHERE host_id = want.host_id AND device = want.device
    ORDER BY place LIMIT want.row_limit FOR UPDATE SKIP LOCKED
) q
CROSS JOIN LATERAL (
    SELECT parameters_id, seed FROM workunits WHERE workunit_id = q.workunit_id OFFSET 0
) w
ORDER BY q.queue_id"""

POOL_WORKUNITS = """
SELECT q.queue_id, q.host_id, q.workunit_id, q.version_id, q.device, q.purpose,
       w.parameters_id, w.seed
FROM json_to_recordset(%s::json)
     AS want (version_id bigint, device text, start bigint, row_limit int)
CROSS JOIN LATERAL (
    SELECT * FROM queue
    WHERE host_id IS NULL AND version_id = want.version_id AND device = want.device
      AND place >= want.start
    ORDER BY place LIMIT want.row_limit FOR UPDATE SKIP LOCKED
) q
CROSS JOIN LATERAL (
    SELECT parameters_id, seed FROM workunits WHERE workunit_id = q.workunit_id OFFSET 0
) w
ORDER BY q.queue_id"""

LEASE_TO_HOSTS = """
WITH gone AS (
    DELETE FROM queue q
    USING json_to_recordset(%(leases)s::json) AS l (
        queue_id bigint, experiment_id bigint, host_id bigint, user_id bigint, request text,
        seconds float8)
    WHERE q.queue_id = l.queue_id
    RETURNING q.queue_id, q.workunit_id, l.experiment_id, q.version_id, l.host_id, l.user_id,
              q.device, q.purpose, q.attempt, l.request, l.seconds
)
INSERT INTO tasks (workunit_id, experiment_id, version_id, host_id, user_id, device, purpose,
                   attempt, state, granted_at, deadline_at, granted_by)
SELECT workunit_id, experiment_id, version_id, host_id, user_id, device, purpose, attempt,
       'leased', %(now)s, %(now)s + seconds * interval '1 second', request
FROM gone ORDER BY queue_id
RETURNING task_id, workunit_id, purpose"""

# The numbers pass through RETURNING: to join them again to what was given would compare all pairs.
END_TASKS = """
WITH ended AS (
    UPDATE tasks t SET state = 'reported', ended_at = %(now)s, outcome = r.outcome,
        claimed_seconds = r.claimed_seconds, elapsed_seconds = r.elapsed_seconds,
        cpu_seconds = r.cpu_seconds, peak_memory_bytes = r.peak_memory_bytes,
        refusal = r.refusal, message = r.message
    FROM json_to_recordset(%(ended)s::json) AS r (
        task_id bigint, outcome text, claimed_seconds float8, elapsed_seconds float8,
        cpu_seconds float8, peak_memory_bytes bigint, refusal text, message text, valid smallint,
        digest text, result jsonb)
    WHERE t.task_id = r.task_id AND t.state IN ('leased', 'lost')
    RETURNING t.task_id, t.workunit_id, t.version_id, r.valid, r.digest, r.result
)
INSERT INTO results (task_id, workunit_id, version_id, valid, digest, result)
SELECT task_id, workunit_id, version_id, valid, decode(digest, 'hex'), result
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

#: A replica never waits in the open pool, so one that did not come back is placed anew.
REPLACE_REPLICAS = """
UPDATE comparisons SET state = CASE WHEN state = 'placed' THEN 'wanted' ELSE state END,
    tries = tries + 1
WHERE workunit_id = ANY(%s) AND state IN ('placed', 'disputed')"""

REQUEST_COMPARISONS = """
INSERT INTO comparisons (workunit_id, task_id)
SELECT * FROM unnest(%s::bigint[], %s::bigint[]) ON CONFLICT DO NOTHING"""

REMOVE_FROM_QUEUE = "DELETE FROM queue WHERE workunit_id = ANY(%s) AND purpose = 'first'"

UPDATE_HOSTS = """
UPDATE hosts h SET last_seen_at = %(now)s, last_request = u.request, allowance = u.allowance,
    failing = u.failing, pace = u.pace, idle_cpu = u.idle_cpu, idle_gpu = u.idle_gpu,
    draining = u.draining, pending = h.pending + u.pending
FROM json_to_recordset(%(hosts)s::json) AS u (
    host_id bigint, request text, allowance float8, failing int, pace float8, idle_cpu int,
    idle_gpu int, draining text, pending int)
WHERE h.host_id = u.host_id"""

UPDATE_FACTS = """
UPDATE hosts SET facts = %s::jsonb, name = %s, cpu_cores = %s, gpus = %s, memory_bytes = %s,
    environments = %s
WHERE host_id = %s"""


async def lock_hosts(
    connection: Connection, tokens: list[bytes], wait: bool
) -> tuple[list[HostRow], list[TaskRow]]:
    """Lock the hosts that own the tokens (their sha256), and read their leased tasks.

    Without ``wait``, hosts that another transaction holds are left out.
    """
    await connection.execute(PREFER_INDEXES)
    hosts = await connection.execute(LOCK_HOSTS if wait else LOCK_UNLOCKED_HOSTS, (tokens,))
    leased = await connection.execute(LEASED_TASKS, (tokens,))
    return (
        [HostRow._make(row) for row in await hosts.fetchall()],
        [TaskRow._make(row) for row in await leased.fetchall()],
    )


async def existing_tokens(connection: Connection, tokens: list[bytes]) -> set[bytes]:
    """Those of the tokens that a host owns."""
    cursor = await connection.execute("SELECT token FROM hosts WHERE token = ANY(%s)", (tokens,))
    return {token for (token,) in await cursor.fetchall()}


async def tasks_by_id(connection: Connection, hosts: list[int], ids: list[int]) -> list[TaskRow]:
    """Tasks of these hosts' in any state."""
    cursor = await connection.execute(TASKS_BY_ID, (ids, hosts))
    return [TaskRow._make(row) for row in await cursor.fetchall()]


async def end_tasks(connection: Connection, ended: Sequence[EndedTask], now: datetime) -> None:
    """Write how tasks ended, and the results that passed the gate."""
    await connection.execute(END_TASKS, {"now": now, "ended": _json(ended)})


async def mark_lost(connection: Connection, ids: list[int], now: datetime) -> None:
    """Mark leased tasks as lost."""
    await connection.execute(MARK_LOST, (now, ids))


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
        await connection.execute(REPLACE_REPLICAS, (replicas,))


async def remove_from_queue(connection: Connection, workunits: list[int]) -> None:
    """A late result came after all: nobody else needs to compute it."""
    await connection.execute(REMOVE_FROM_QUEUE, (workunits,))


async def request_comparisons(connection: Connection, tasks: Sequence[TaskRow]) -> None:
    """Have these results computed again elsewhere."""
    await connection.execute(
        REQUEST_COMPARISONS, ([t.workunit_id for t in tasks], [t.task_id for t in tasks])
    )


async def leased_by_users(connection: Connection, users: list[int]) -> dict[int | None, int]:
    """Tasks in the hands of all of each user's hosts; nobody else leases to them meanwhile."""
    await connection.execute(
        """SELECT pg_advisory_xact_lock(%s, (u %% 2147483648)::int)
           FROM unnest(%s::bigint[]) u ORDER BY u""",
        (USER_LOCK, sorted(users)),
    )
    cursor = await connection.execute(
        """SELECT h.user_id, count(*) FROM tasks t JOIN hosts h USING (host_id)
           WHERE h.user_id = ANY(%s) AND t.state = 'leased' GROUP BY h.user_id""",
        (users,),
    )
    return dict(await cursor.fetchall())


async def reserved_workunits(
    connection: Connection, wanted: Sequence[tuple[int, str, int]]
) -> list[CandidateRow]:
    """Offer workunits made for hosts: ``(host, device, most)``."""
    wants = [{"host_id": h, "device": d, "row_limit": m} for h, d, m in wanted]
    cursor = await connection.execute(RESERVED_WORKUNITS, (_json(wants),))
    return [CandidateRow._make(row) for row in await cursor.fetchall()]


async def pool_workunits(
    connection: Connection, wanted: Sequence[tuple[int, str, int, int]]
) -> list[CandidateRow]:
    """Offer any host's workunits: ``(version, device, place to begin at, most)``."""
    wants = [{"version_id": v, "device": d, "start": f, "row_limit": m} for v, d, f, m in wanted]
    cursor = await connection.execute(POOL_WORKUNITS, (_json(wants),))
    return [CandidateRow._make(row) for row in await cursor.fetchall()]


async def lease_to_hosts(
    connection: Connection, leases: Sequence[Lease], now: datetime
) -> dict[tuple[int, str], int]:
    """Lease candidates to hosts; (workunit, purpose) -> task."""
    cursor = await connection.execute(LEASE_TO_HOSTS, {"leases": _json(leases), "now": now})
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


async def update_hosts(
    connection: Connection, updates: Sequence[HostUpdate], now: datetime
) -> None:
    """Write what these hosts said."""
    await connection.execute(UPDATE_HOSTS, {"now": now, "hosts": _json(updates)})


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
