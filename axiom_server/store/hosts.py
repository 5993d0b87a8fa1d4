"""Hosts: enrol them, list them, find live and idle ones, quarantine and release them."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import msgspec

from axiom_protocol.messages import HostFacts
from axiom_server.decide.deploy import IdleHost, limit_by_standing
from axiom_server.decide.lease import FAILS_REPEATEDLY
from axiom_server.decide.standing import Standing, StandingPolicy, tasks_in_hand
from axiom_server.store.comparisons import STANDING, make_standing
from axiom_server.store.database import Connection, row, rows
from axiom_server.store.owner_locks import lock_owners


class HostLine(NamedTuple):
    """One host, as listed for staff."""

    host_id: int
    name: str
    user: str | None
    imported: bool
    state: str
    state_reason: str
    cpu_cores: int
    gpus: int
    memory_bytes: int
    idle_cpu: int
    idle_gpu: int
    last_seen_at: datetime | None
    failing: int
    agreements: int
    pace: float
    credit_total: float
    recent_average: float
    average_at: datetime | None
    leased: int


async def enrol(connection: Connection, user_id: int, facts: HostFacts, token: bytes) -> int:
    """Add an idle host to a user; returns its id. ``token``: the sha256 of the host's token."""
    found = await row(
        connection,
        """INSERT INTO hosts (user_id, name, token, facts, cpu_cores, gpus, memory_bytes,
                              environments, idle_cpu, idle_gpu, last_seen_at)
           VALUES (%s, %s, %s, %s::jsonb, %s, %s, %s, %s, %s, %s, now()) RETURNING host_id""",
        (
            user_id,
            facts.name,
            token,
            msgspec.json.encode(facts).decode(),
            facts.cpu_cores,
            len(facts.gpus),
            facts.memory_bytes,
            list(facts.environments),
            facts.cpu_cores,
            len(facts.gpus),
        ),
    )
    return int(found[0])


async def detach(connection: Connection, token: bytes) -> None:
    """Revoke the token of a host, given as its sha256; nothing is deployed to the host any more."""
    await connection.execute(
        """UPDATE hosts SET token = NULL, draining = 'detached', idle_cpu = 0, idle_gpu = 0
           WHERE token = %s""",
        (token,),
    )


async def live_users(connection: Connection, live_seconds: float) -> frozenset[int]:
    """Users with an active host that synced within ``live_seconds``."""
    found = await rows(
        connection,
        """SELECT DISTINCT user_id FROM hosts WHERE user_id IS NOT NULL AND state = 'active'
           AND last_seen_at > now() - %s * interval '1 second' AND NOT imported""",
        (live_seconds,),
    )
    return frozenset(int(r[0]) for r in found)


async def idle_hosts(
    connection: Connection, policy: StandingPolicy, live_seconds: float
) -> list[IdleHost]:
    """Live hosts with idle slots, for which no workunit is reserved. Locks out other deployments.

    An imported host has the idle slots that the imported file says, until it is filled once. The
    slots of other hosts are limited by the standing of their account.
    """
    await connection.execute("LOCK TABLE deployments IN SHARE ROW EXCLUSIVE MODE")
    found = await rows(
        connection,
        f"""SELECT h.host_id, h.idle_cpu - COALESCE(q.cpu, 0), h.idle_gpu - COALESCE(q.gpu, 0),
                  h.environments, h.user_id, h.imported, (
                      SELECT count(*) FROM hosts o JOIN tasks t USING (host_id)
                      WHERE o.user_id = h.user_id AND t.state = 'leased'
                  ) + (
                      SELECT count(*) FROM hosts o JOIN queue w USING (host_id)
                      WHERE o.user_id = h.user_id),
                  COALESCE((h.facts->>'gpu_cohort')::int, 0), {STANDING}
           FROM hosts h LEFT JOIN users u USING (user_id) LEFT JOIN (
               SELECT host_id, count(*) FILTER (WHERE device = 'cpu') AS cpu,
                      count(*) FILTER (WHERE device = 'gpu') AS gpu
               FROM queue WHERE host_id IS NOT NULL GROUP BY host_id) q USING (host_id)
           WHERE h.state = 'active' AND h.draining = '' AND h.failing < {FAILS_REPEATEDLY}
             AND (h.imported OR h.last_seen_at > now() - %s * interval '1 second')
             AND (h.idle_cpu > 0 OR h.idle_gpu > 0)
           ORDER BY h.host_id""",
        (live_seconds,),
    )
    idle = [
        IdleHost(
            host_id=h, cpu=max(0, cpu), gpu=max(0, gpu), environments=frozenset(environments),
            user_id=user_id, gpu_cohort=max(1, gpu_cohort),
            earned=None if imported else _left(policy, make_standing(values), in_hand),
        )
        for h, cpu, gpu, environments, user_id, imported, in_hand, gpu_cohort, *values in found
        if cpu > 0 or gpu > 0
    ]  # fmt: skip
    return limit_by_standing(idle)


def _left(policy: StandingPolicy, standing: Standing, in_hand: int) -> int | None:
    quota = tasks_in_hand(policy, standing)
    return None if quota is None else max(0, quota - in_hand)


async def slots_of(connection: Connection, ids: list[int]) -> dict[int, tuple[int, int]]:
    """(cores, GPUs) of these hosts; unknown ids are left out."""
    found = await rows(
        connection, "SELECT host_id, cpu_cores, gpus FROM hosts WHERE host_id = ANY(%s)", (ids,)
    )
    return {h: (cpu, gpu) for h, cpu, gpu in found}


async def clear_imported_idle(connection: Connection, host_ids: list[int]) -> None:
    """Record that imported hosts were filled and are no longer idle."""
    await connection.execute(
        """UPDATE hosts SET idle_cpu = 0, idle_gpu = 0
           WHERE host_id = ANY(%s) AND imported""",
        (host_ids,),
    )


async def listing(connection: Connection, limit: int) -> list[HostLine]:
    """Hosts for staff, the most recently seen first."""
    found = await rows(
        connection,
        """SELECT h.host_id, h.name, u.name, h.imported, h.state, h.state_reason, h.cpu_cores,
                  h.gpus, h.memory_bytes, h.idle_cpu, h.idle_gpu, h.last_seen_at, h.failing,
                  h.agreements, h.pace, h.credit_total::float8, h.average, h.average_at,
                  (SELECT count(*) FROM tasks t
                   WHERE t.host_id = h.host_id AND t.state = 'leased')
           FROM hosts h LEFT JOIN users u USING (user_id)
           ORDER BY h.last_seen_at DESC NULLS LAST, h.host_id LIMIT %s""",
        (limit,),
    )
    return [HostLine._make(r) for r in found]


async def set_state(connection: Connection, host_id: int, state: str, reason: str) -> bool:
    """Quarantine a host, or release it and its account; False when there is none of that id.

    Mismatches from before its release no longer count.
    """
    cursor = await connection.execute(
        """UPDATE hosts SET state = %s, state_reason = %s,
               agreements = CASE WHEN %s = 'quarantined' THEN 0 ELSE agreements END,
               released_at = CASE WHEN %s = 'active' THEN now() ELSE released_at END
           WHERE host_id = %s""",
        (state, reason, state, state, host_id),
    )
    if state == "active":
        await connection.execute(
            """UPDATE users SET state = 'active', state_reason = ''
               WHERE user_id = (SELECT user_id FROM hosts WHERE host_id = %s)""",
            (host_id,),
        )
    return cursor.rowcount == 1


async def reset_failures(connection: Connection, version_id: int) -> None:
    """Reset the failures of hosts that ran a stopped version, because the version was at fault."""
    ran = "IN (SELECT {} FROM tasks WHERE version_id = %s AND ended_at IS NOT NULL)"
    failing = await rows(
        connection,
        f"SELECT host_id FROM hosts WHERE failing > 0 AND host_id {ran.format('host_id')}",
        (version_id,),
    )
    returning = await rows(
        connection,
        f"SELECT user_id FROM users WHERE returned > 0 AND user_id {ran.format('user_id')}",
        (version_id,),
    )
    hosts, users = [host for (host,) in failing], [user for (user,) in returning]
    await lock_owners(connection, hosts, users)
    await connection.execute("UPDATE hosts SET failing = 0 WHERE host_id = ANY(%s)", (hosts,))
    await connection.execute("UPDATE users SET returned = 0 WHERE user_id = ANY(%s)", (users,))
