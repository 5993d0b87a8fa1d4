"""Comparisons of results for one seed: which need a replica, and how they ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from axiom_server.decide.lease import FAILS_REPEATEDLY
from axiom_server.decide.replicate import Need, Opinion
from axiom_server.store.database import Connection, rows

COMPARISONS_MAX = 2_000  # comparisons in one round of maintenance


class OpenRow(NamedTuple):
    """One result of a workunit whose comparison is open."""

    workunit_id: int
    version_id: int
    device: str
    state: str
    tries: int
    task_id: int
    host_id: int
    user_id: int | None
    trusted: bool
    result: dict[str, Any]


async def open_results(
    connection: Connection, states: Sequence[str], trusted_after: int
) -> list[OpenRow]:
    """Results of workunits under comparison, locked, by workunit and task."""
    found = await rows(
        connection,
        f"""SELECT c.workunit_id, t.version_id, t.device, c.state, c.tries, t.task_id, t.host_id,
                   t.user_id, h.agreements >= %s, r.result
            FROM (SELECT * FROM comparisons WHERE state = ANY(%s)
                    AND state IN ('wanted', 'placed', 'disputed')
                  ORDER BY workunit_id LIMIT {COMPARISONS_MAX} FOR UPDATE SKIP LOCKED) c
            JOIN tasks t USING (workunit_id) JOIN results r ON r.task_id = t.task_id
            JOIN hosts h ON h.host_id = t.host_id
            ORDER BY c.workunit_id, t.task_id""",
        (trusted_after, list(states)),
    )
    return [OpenRow._make(r) for r in found]


async def answered_results(connection: Connection, trusted_after: int) -> list[OpenRow]:
    """As ``open_results``, for placed comparisons whose replica has ended or was lost."""
    found = await rows(
        connection,
        f"""SELECT c.workunit_id, t.version_id, t.device, c.state, c.tries, t.task_id, t.host_id,
                   t.user_id, h.agreements >= %s, r.result
            FROM (SELECT * FROM comparisons p WHERE state = 'placed'
                    AND NOT EXISTS (SELECT FROM queue q WHERE q.workunit_id = p.workunit_id)
                    AND NOT EXISTS (SELECT FROM tasks l WHERE l.workunit_id = p.workunit_id
                                    AND l.state = 'leased')
                  ORDER BY workunit_id LIMIT {COMPARISONS_MAX} FOR UPDATE SKIP LOCKED) c
            JOIN tasks t USING (workunit_id) JOIN results r ON r.task_id = t.task_id
            JOIN hosts h ON h.host_id = t.host_id
            ORDER BY c.workunit_id, t.task_id""",
        (trusted_after,),
    )
    return [OpenRow._make(r) for r in found]


async def replica_hosts(
    connection: Connection, live_seconds: float, trusted_after: int
) -> list[Opinion]:
    """Live hosts that could compute a replica, with how many are reserved for each, shuffled."""
    found = await rows(
        connection,
        f"""SELECT h.host_id, h.user_id, h.cpu_cores, h.gpus, h.memory_bytes, h.environments,
                  h.agreements >= %s, COALESCE(q.waiting, 0), random()
           FROM hosts h LEFT JOIN (SELECT host_id, count(*) AS waiting FROM queue
                                   WHERE host_id IS NOT NULL GROUP BY host_id) q USING (host_id)
           WHERE h.state = 'active' AND NOT h.imported AND h.draining = ''
             AND h.failing < {FAILS_REPEATEDLY}
             AND h.last_seen_at > now() - %s * interval '1 second' AND h.cpu_cores > 0
           ORDER BY h.host_id""",
        (trusted_after, live_seconds),
    )
    return [
        Opinion(
            host_id=host, user_id=user, slots=cores + gpus, gpus=gpus, memory_bytes=memory,
            environments=frozenset(environments), trusted=trusted, asked=waiting,
            rank=rank,
        )
        for host, user, cores, gpus, memory, environments, trusted, waiting, rank in found
    ]  # fmt: skip


async def queue_replicas(
    connection: Connection,
    placed: Sequence[tuple[Need, int]],
    versions: dict[int, int],
    hold_seconds: float,
) -> None:
    """Queue replicas, reserved for the hosts chosen. ``versions``: workunit -> version."""
    if not placed:
        return
    await connection.execute(
        """INSERT INTO queue (workunit_id, version_id, device, host_id, purpose, release_at)
           SELECT *, now() + %s * interval '1 second'
           FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::bigint[], %s::text[])
           ON CONFLICT (workunit_id, purpose) DO NOTHING""",
        (
            hold_seconds,
            [need.workunit_id for need, _ in placed],
            [versions[need.workunit_id] for need, _ in placed],
            [need.device for need, _ in placed],
            [host for _, host in placed],
            [need.purpose for need, _ in placed],
        ),
    )
    await set_state(connection, [need.workunit_id for need, _ in placed], "placed")


async def set_state(
    connection: Connection, workunits: Sequence[int], state: str, note: str = ""
) -> None:
    """Set the state of comparisons."""
    await connection.execute(
        """UPDATE comparisons SET state = %s, note = %s,
               settled_at = CASE WHEN %s IN ('agreed', 'settled', 'given_up') THEN now() END
           WHERE workunit_id = ANY(%s)""",
        (state, note[:500], state, list(workunits)),
    )


async def record_agreements(connection: Connection, tasks: Sequence[int]) -> None:
    """Count one more agreement for the host of each task."""
    await connection.execute(
        """UPDATE hosts h SET agreements = h.agreements + a.n
           FROM (SELECT host_id, count(*) AS n FROM tasks WHERE task_id = ANY(%s)
                 GROUP BY host_id) a
           WHERE h.host_id = a.host_id""",
        (list(tasks),),
    )


async def record_mismatches(
    connection: Connection, tasks: Sequence[tuple[int, str]], distrust: int
) -> None:
    """Record one mismatch for the host of each task: (task, why).

    distrust  agreements that these hosts need before they count as new hosts again
    """
    if not tasks:
        return
    ids, notes = [t for t, _ in tasks], [n for _, n in tasks]
    await connection.execute(
        """INSERT INTO mismatches (task_id, host_id, note)
           SELECT t.task_id, t.host_id, m.note
           FROM unnest(%s::bigint[], %s::text[]) AS m (task_id, note) JOIN tasks t USING (task_id)
           ON CONFLICT DO NOTHING""",
        (ids, notes),
    )
    await connection.execute(
        """UPDATE hosts SET agreements = -%s
           WHERE host_id IN (SELECT host_id FROM tasks WHERE task_id = ANY(%s))""",
        (distrust, ids),
    )


async def refuse_results(connection: Connection, tasks: Sequence[tuple[int, str]]) -> None:
    """Refuse the results of these tasks (task, why): no credit, and not used for findings."""
    ids, notes = [t for t, _ in tasks], [n for _, n in tasks]
    await connection.execute(
        """UPDATE tasks t
           SET refusal = left('other hosts disagree for the same seed: ' || m.note, 200)
           FROM unnest(%s::bigint[], %s::text[]) AS m (task_id, note)
           WHERE t.task_id = m.task_id""",
        (ids, notes),
    )
    await connection.execute("DELETE FROM results WHERE task_id = ANY(%s)", (ids,))


async def count_mismatches(connection: Connection, window_seconds: float) -> dict[int, int]:
    """Mismatches of each active host in the window and since its release from quarantine."""
    found = await rows(
        connection,
        """SELECT h.host_id, count(*) FROM hosts h JOIN mismatches m USING (host_id)
           WHERE h.state = 'active' AND m.at > now() - %s * interval '1 second'
             AND (h.released_at IS NULL OR m.at > h.released_at)
           GROUP BY h.host_id ORDER BY h.host_id""",
        (window_seconds,),
    )
    return {int(h): int(n) for h, n in found}


async def withdraw_results(
    connection: Connection, host_id: int, reason: str, window_seconds: float
) -> int:
    """Delete a quarantined host's results of the window that no other host has confirmed.

    Those not reviewed yet earn no credit. Workunits left without a result are queued again, unless
    a replica is being computed. Returns the number of results.
    """
    found = await rows(
        connection,
        """WITH unconfirmed AS (
               SELECT t.task_id, t.workunit_id FROM versions v JOIN tasks t USING (version_id)
               JOIN results r USING (task_id) LEFT JOIN comparisons c
                    ON c.workunit_id = t.workunit_id
               WHERE t.host_id = %(host)s AND t.ended_at > now() - %(window)s * interval '1 second'
                 AND COALESCE(c.state, '') NOT IN ('agreed', 'settled')
           ), refused AS (
               UPDATE tasks t SET refusal = left(%(reason)s, 200) FROM unconfirmed u
               WHERE t.task_id = u.task_id AND t.state = 'reported'
           ), gone AS (
               DELETE FROM results r USING unconfirmed u WHERE r.task_id = u.task_id
           ), alone AS (
               SELECT DISTINCT u.workunit_id FROM unconfirmed u WHERE NOT EXISTS (
                   SELECT FROM tasks t JOIN results r USING (task_id)
                   WHERE t.workunit_id = u.workunit_id
                     AND task_id NOT IN (SELECT task_id FROM unconfirmed))
           ), computed AS (
               UPDATE tasks t SET purpose = 'first' FROM alone a
               WHERE t.workunit_id = a.workunit_id AND t.state = 'leased'
               RETURNING t.workunit_id
           ), settled AS (
               DELETE FROM comparisons c USING alone a WHERE c.workunit_id = a.workunit_id
           ), unplaced AS (
               DELETE FROM queue q USING alone a
               WHERE q.workunit_id = a.workunit_id AND q.purpose <> 'first'
           ), again AS (
               INSERT INTO queue (workunit_id, version_id, device)
               SELECT w.workunit_id, w.version_id, w.device
               FROM alone JOIN workunits w USING (workunit_id) JOIN versions v USING (version_id)
               WHERE v.state = 'active'
                 AND workunit_id NOT IN (SELECT workunit_id FROM computed)
               ON CONFLICT DO NOTHING
           )
           SELECT count(*) FROM unconfirmed""",
        {"host": host_id, "reason": reason, "window": window_seconds},
    )
    return int(found[0][0])
