"""Hosts that are syncing: lock them and their leased tasks, and write back what changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from axiom_protocol.messages import HostFacts, HostStatus
from axiom_server.decide.agent_runs import KnownRun
from axiom_server.decide.standing import Standing
from axiom_server.store.database import Connection, as_json
from axiom_server.store.reported_tasks import LEASED_TASKS, TaskRow


class HostRow(NamedTuple):
    """A host that is syncing, locked until the transaction ends. ``token``: its sha256."""

    token: bytes
    host_id: int
    user_id: int | None
    state: str
    state_reason: str
    cpu_cores: int
    gpus: int
    memory_bytes: int
    environments: list[str]
    gpu_cohort: int
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
    trusted: bool
    vouched: bool | None
    validated: int | None
    returned: int | None
    unconfirmed: int | None
    age_seconds: float | None
    since_return: float | None
    now: datetime
    runs: Sequence[KnownRun] = ()
    account_revision: str = ""
    account_answer: str | None = None

    @property
    def standing(self) -> Standing:
        """The part of the account's standing that limits its tasks and sets its checks."""
        return Standing(
            trusted=self.trusted, vouched=bool(self.vouched), validated=self.validated or 0,
            returned=self.returned or 0, unconfirmed=self.unconfirmed or 0,
            age_seconds=self.age_seconds or 0.0,
            since_return_seconds=math.inf if self.since_return is None else self.since_return,
        )  # fmt: skip


class HostUpdate(Struct, frozen=True, kw_only=True):
    """The changes of a host by its sync; fields are named as UPDATE_HOSTS reads them.

    ``pending``: how many tasks it has just reported. Fields that are None are left unchanged.
    """

    host_id: int
    request: str
    allowance: float
    failing: int
    pace: float
    idle_cpu: int | None
    idle_gpu: int | None
    draining: str | None
    pending: int
    runs: list[KnownRun]
    status: HostStatus | None = None


#: Every statement of a sync finds few rows by a key. A cached plan from when a table was small must
#: not scan the table when it has grown, and lists of different lengths can share one plan.
#: (For this, no statement of a sync may join two of its own lists.)
PREFER_INDEXES = """
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true),
       set_config('plan_cache_mode', 'force_generic_plan', true)"""


LOCK_HOSTS = """
SELECT h.token, h.host_id, h.user_id, h.state, h.state_reason, h.cpu_cores, h.gpus, h.memory_bytes,
       h.environments, COALESCE((h.facts->>'gpu_cohort')::int, 0), h.last_seen_at,
       h.last_request, h.allowance, h.failing, h.agreements, h.pace,
       h.credit_total, u.credit_total, u.average, u.average_at, h.pending,
       h.trusted, u.vouched, u.validated, u.returned, u.unconfirmed,
       EXTRACT(epoch FROM clock_timestamp() - u.created_at)::float8,
       EXTRACT(epoch FROM clock_timestamp() - u.returned_at)::float8, clock_timestamp(), h.runs,
       h.account_revision, h.account_answer::text
FROM hosts h LEFT JOIN users u USING (user_id)
WHERE h.token = ANY(%s) ORDER BY h.host_id FOR NO KEY UPDATE OF h"""


LOCK_UNLOCKED_HOSTS = LOCK_HOSTS + " SKIP LOCKED"


UPDATE_HOSTS = """
UPDATE hosts h SET last_seen_at = %(now)s, last_request = u.request, allowance = u.allowance,
    failing = u.failing, pace = u.pace, idle_cpu = COALESCE(u.idle_cpu, h.idle_cpu),
    idle_gpu = COALESCE(u.idle_gpu, h.idle_gpu), draining = COALESCE(u.draining, h.draining),
    pending = h.pending + u.pending, runs = u.runs, status = COALESCE(u.status, h.status)
FROM json_to_recordset(%(hosts)s::json) AS u (
    host_id bigint, request text, allowance float8, failing int, pace float8, idle_cpu int,
    idle_gpu int, draining text, pending int, runs jsonb, status jsonb)
WHERE h.host_id = u.host_id"""


UPDATE_FACTS = """
UPDATE hosts SET facts = %s::jsonb, name = %s, cpu_cores = %s, gpus = %s, memory_bytes = %s,
    environments = %s
WHERE host_id = %s"""


async def lock_hosts(
    connection: Connection, tokens: list[bytes], wait: bool
) -> tuple[list[HostRow], list[TaskRow]]:
    """Lock the hosts that own the tokens (their sha256), and read their leased tasks.

    Without ``wait``, hosts that another transaction has locked are left out. In a pipeline, all
    three statements go in one round trip.
    """
    await connection.execute(PREFER_INDEXES)
    hosts = await connection.execute(LOCK_HOSTS if wait else LOCK_UNLOCKED_HOSTS, (tokens,))
    leased = await connection.execute(LEASED_TASKS, (tokens,))
    return (
        [_host(row) for row in await hosts.fetchall()],
        [TaskRow._make(row) for row in await leased.fetchall()],
    )


def _host(row: Sequence[Any]) -> HostRow:
    host = HostRow._make(row)
    return host._replace(runs=msgspec.convert(host.runs, list[KnownRun]))


async def existing_tokens(connection: Connection, tokens: list[bytes]) -> set[bytes]:
    """The tokens among these that belong to a host."""
    cursor = await connection.execute("SELECT token FROM hosts WHERE token = ANY(%s)", (tokens,))
    return {token for (token,) in await cursor.fetchall()}


async def update_facts(connection: Connection, host_id: int, facts: HostFacts) -> None:
    """Store the facts that a host sent because they changed."""
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


UPDATE_RETURNED = """
UPDATE users u SET returned = LEAST(GREATEST(0, u.returned - r.ended) + r.given_back, 1000),
    returned_at = CASE WHEN r.given_back > 0 THEN now() ELSE u.returned_at END
FROM json_to_recordset(%s::json) AS r (user_id bigint, ended int, given_back int)
WHERE u.user_id = r.user_id"""


async def update_returned(connection: Connection, counts: Mapping[int, tuple[int, int]]) -> None:
    """Update the returned tasks of accounts: ``(ended with a result, given back)`` by user."""
    found = [{"user_id": u, "ended": e, "given_back": g} for u, (e, g) in sorted(counts.items())]
    await connection.execute(UPDATE_RETURNED, (as_json(found),))


async def update_hosts(
    connection: Connection, updates: Sequence[HostUpdate], now: datetime
) -> None:
    """Store the changes of these hosts by their syncs."""
    await connection.execute(UPDATE_HOSTS, {"now": now, "hosts": as_json(updates)})
