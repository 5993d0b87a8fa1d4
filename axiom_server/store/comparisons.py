"""Comparisons of results of one seed: which wait for another opinion, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from axiom_server.decide.replicate import Need, Opinion
from axiom_server.store.database import Connection, rows

MOST = 2_000  # comparisons handled in one round


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
    result: dict[str, Any]


async def open_results(connection: Connection, states: Sequence[str]) -> list[OpenRow]:
    """Results of workunits under comparison, locked, by workunit and task."""
    found = await rows(
        connection,
        f"""SELECT c.workunit_id, t.version_id, t.device, c.state, c.tries, t.task_id, t.host_id,
                   t.user_id, r.result
            FROM (SELECT * FROM comparisons WHERE state = ANY(%s)
                    AND state IN ('wanted', 'placed', 'disputed')
                  ORDER BY workunit_id LIMIT {MOST} FOR UPDATE SKIP LOCKED) c
            JOIN tasks t USING (workunit_id) JOIN results r ON r.task_id = t.task_id
            ORDER BY c.workunit_id, t.task_id""",
        (list(states),),
    )
    return [OpenRow._make(r) for r in found]


async def answered(connection: Connection) -> list[OpenRow]:
    """As ``open_results``, of placed comparisons whose other opinion has come, or will not come."""
    found = await rows(
        connection,
        f"""SELECT c.workunit_id, t.version_id, t.device, c.state, c.tries, t.task_id, t.host_id,
                   t.user_id, r.result
            FROM (SELECT * FROM comparisons p WHERE state = 'placed'
                    AND NOT EXISTS (SELECT FROM queue q WHERE q.workunit_id = p.workunit_id)
                    AND NOT EXISTS (SELECT FROM tasks l WHERE l.workunit_id = p.workunit_id
                                    AND l.state = 'leased')
                  ORDER BY workunit_id LIMIT {MOST} FOR UPDATE SKIP LOCKED) c
            JOIN tasks t USING (workunit_id) JOIN results r ON r.task_id = t.task_id
            ORDER BY c.workunit_id, t.task_id""",
    )
    return [OpenRow._make(r) for r in found]


async def live_opinions(
    connection: Connection, live_seconds: float, trusted_after: int
) -> list[Opinion]:
    """Live hosts that could compute a replica, with how many wait for each already."""
    found = await rows(
        connection,
        """SELECT h.host_id, h.user_id, h.cpu_cores, h.gpus, h.memory_bytes, h.environments,
                  h.agreements >= %s, COALESCE(q.waiting, 0)
           FROM hosts h LEFT JOIN (SELECT host_id, count(*) AS waiting FROM queue
                                   WHERE host_id IS NOT NULL GROUP BY host_id) q USING (host_id)
           WHERE h.state = 'active' AND NOT h.imported AND h.draining = '' AND h.failing = 0
             AND h.last_seen_at > now() - %s * interval '1 second' AND h.cpu_cores > 0
           ORDER BY h.host_id""",
        (trusted_after, live_seconds),
    )
    return [
        Opinion(
            host_id=host, user_id=user, slots=cores + gpus, gpus=gpus, memory_bytes=memory,
            environments=frozenset(environments), trusted=trusted, asked=waiting,
        )
        for host, user, cores, gpus, memory, environments, trusted, waiting in found
    ]  # fmt: skip


async def place(
    connection: Connection,
    placed: Sequence[tuple[Need, int]],
    versions: dict[int, int],
    hold_seconds: float,
) -> None:
    """Queue replicas for the hosts chosen. ``versions``: workunit -> version."""
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
    """Move comparisons on."""
    await connection.execute(
        """UPDATE comparisons SET state = %s, note = %s,
               settled_at = CASE WHEN %s IN ('agreed', 'settled', 'given_up') THEN now() END
           WHERE workunit_id = ANY(%s)""",
        (state, note[:500], state, list(workunits)),
    )


async def agree(connection: Connection, tasks: Sequence[int]) -> None:
    """The hosts of these tasks gain trust, one for each task."""
    await connection.execute(
        """UPDATE hosts h SET agreements = h.agreements + a.n
           FROM (SELECT host_id, count(*) AS n FROM tasks WHERE task_id = ANY(%s)
                 GROUP BY host_id) a
           WHERE h.host_id = a.host_id""",
        (list(tasks),),
    )


async def disagree(connection: Connection, tasks: Sequence[tuple[int, str]]) -> None:
    """Charge the outliers' hosts with a mismatch; their results earn and count for nothing."""
    ids, notes = [t for t, _ in tasks], [n for _, n in tasks]
    await connection.execute(
        """INSERT INTO mismatches (task_id, host_id, note)
           SELECT t.task_id, t.host_id, m.note
           FROM unnest(%s::bigint[], %s::text[]) AS m (task_id, note) JOIN tasks t USING (task_id)
           ON CONFLICT DO NOTHING""",
        (ids, notes),
    )
    await connection.execute(
        """UPDATE tasks t
           SET refusal = left('other hosts disagree for the same seed: ' || m.note, 200)
           FROM unnest(%s::bigint[], %s::text[]) AS m (task_id, note)
           WHERE t.task_id = m.task_id""",
        (ids, notes),
    )
    await connection.execute("DELETE FROM results WHERE task_id = ANY(%s)", (ids,))
    await connection.execute(
        """UPDATE hosts SET agreements = 0
           WHERE host_id IN (SELECT host_id FROM tasks WHERE task_id = ANY(%s))""",
        (ids,),
    )


async def mismatches_of(
    connection: Connection, tasks: Sequence[int], window_seconds: float
) -> dict[int, int]:
    """Mismatches in the window, of the hosts of these tasks."""
    found = await rows(
        connection,
        """SELECT host_id, count(*) FROM mismatches
           WHERE host_id IN (SELECT host_id FROM tasks WHERE task_id = ANY(%s))
             AND at > now() - %s * interval '1 second' GROUP BY host_id""",
        (list(tasks), window_seconds),
    )
    return {int(h): int(n) for h, n in found}
