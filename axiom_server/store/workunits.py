"""Workunits: create them with unique seeds, queue them, and count those that are queued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from axiom_server.store.database import Connection, row, rows


@dataclass(frozen=True, kw_only=True)
class NewWorkunits:
    """``count`` new workunits of one parameter set, for one host's device or (None) any host."""

    version_id: int
    parameters_id: int
    device: str
    host_id: int | None
    count: int


async def deploy(
    connection: Connection,
    kind: str,
    wanted: Sequence[NewWorkunits],
    hold_seconds: float,
    record: Mapping[str, Any],
) -> int:
    """Create and queue workunits, in the caller's transaction. Returns the deployment's id.

    Each parameter set counts its own seeds under a row lock, and the table requires that (parameter
    set, seed) is unique, so no two workunits ever compute the same.
    """
    total = sum(w.count for w in wanted)
    found = await row(
        connection,
        """INSERT INTO deployments (session_id, kind, workunits, record)
           VALUES ((SELECT max(session_id) FROM sessions), %s, %s, %s::jsonb)
           RETURNING deployment_id""",
        (kind, total, msgspec.json.encode(record).decode()),
    )
    deployment_id = int(found[0])
    firsts = await _reserve_seeds(connection, wanted)
    await connection.execute(
        """WITH made AS (
               INSERT INTO workunits (version_id, parameters_id, seed, deployment_id, device)
               SELECT w.version_id, w.parameters_id, w.first + n, %(deployment)s, w.device
               FROM unnest(%(version)s::bigint[], %(parameters)s::bigint[], %(device)s::text[],
                           %(first)s::bigint[], %(count)s::int[])
                    AS w (version_id, parameters_id, device, first, count)
               CROSS JOIN LATERAL generate_series(0, w.count - 1) AS n
               RETURNING workunit_id, version_id, parameters_id, seed, device
           )
           INSERT INTO queue (workunit_id, version_id, device, host_id, release_at)
           SELECT m.workunit_id, m.version_id, m.device, w.host_id,
                  CASE WHEN w.host_id IS NULL THEN NULL
                       ELSE now() + %(hold)s * interval '1 second' END
           FROM made m
           JOIN unnest(%(parameters)s::bigint[], %(first)s::bigint[], %(count)s::int[],
                       %(host)s::bigint[]) AS w (parameters_id, first, count, host_id)
             ON m.parameters_id = w.parameters_id
            AND m.seed >= w.first AND m.seed < w.first + w.count
           ORDER BY m.seed, m.version_id""",
        {
            "deployment": deployment_id,
            "version": [w.version_id for w in wanted],
            "parameters": [w.parameters_id for w in wanted],
            "device": [w.device for w in wanted],
            "host": [w.host_id for w in wanted],
            "first": firsts,
            "count": [w.count for w in wanted],
            "hold": hold_seconds,
        },
    )
    return deployment_id


async def set_total(connection: Connection, deployment_id: int, count: int) -> None:
    """Correct the number of workunits of a deployment, also in its record."""
    await connection.execute(
        """UPDATE deployments SET workunits = %(n)s, record = jsonb_set(jsonb_set(
               record, '{pool}', to_jsonb(%(n)s::bigint)),
               '{experiments,0,workunits}', to_jsonb(%(n)s::bigint))
           WHERE deployment_id = %(id)s""",
        {"n": count, "id": deployment_id},
    )


async def _reserve_seeds(connection: Connection, wanted: Sequence[NewWorkunits]) -> list[int]:
    """Reserve seeds; the first seed of each entry. Locks rows in order of id: no deadlock."""
    totals: dict[int, int] = {}
    for entry in wanted:
        totals[entry.parameters_id] = totals.get(entry.parameters_id, 0) + entry.count
    next_seed: dict[int, int] = {}
    for parameters_id, total in sorted(totals.items()):
        found = await row(
            connection,
            """UPDATE parameter_sets SET next_seed = next_seed + %s
               WHERE parameters_id = %s RETURNING next_seed - %s""",
            (total, parameters_id, total),
        )
        next_seed[parameters_id] = int(found[0])
    firsts = []
    for entry in wanted:
        firsts.append(next_seed[entry.parameters_id])
        next_seed[entry.parameters_id] += entry.count
    return firsts


async def count_pool(connection: Connection) -> dict[int, int]:
    """By version, the number of queued workunits for any host."""
    found = await rows(
        connection,
        "SELECT version_id, count(*) FROM queue WHERE host_id IS NULL GROUP BY version_id",
    )
    return {int(version): int(count) for version, count in found}


async def standing_orders(connection: Connection, stand_seconds: float) -> list[dict[str, Any]]:
    """Orders of the last ``stand_seconds`` that found no idle host, the oldest first."""
    found = await rows(
        connection,
        """SELECT record -> 'order' FROM deployments WHERE kind = 'standing'
           AND deployed_at > now() - %s * interval '1 second' ORDER BY deployment_id""",
        (stand_seconds,),
    )
    return [order for (order,) in found]


async def counts_by_version(connection: Connection) -> dict[str, tuple[int, int]]:
    """By version's id: workunits that wait, and tasks that run."""
    found = await rows(
        connection,
        """SELECT v.version_id, COALESCE(q.n, 0), COALESCE(t.n, 0) FROM versions v
           LEFT JOIN (SELECT version_id, count(*) AS n FROM queue GROUP BY 1) q USING (version_id)
           LEFT JOIN (SELECT version_id, count(*) AS n FROM tasks WHERE state = 'leased'
                      GROUP BY 1) t USING (version_id)""",
    )
    return {str(version): (int(waiting), int(running)) for version, waiting, running in found}


async def queue_counts(connection: Connection) -> list[tuple[str, int, int, int]]:
    """By experiment: (name, queued for any host, queued for one host, leased)."""
    found = await rows(
        connection,
        """SELECT e.name, COALESCE(sum(q.pool), 0)::bigint, COALESCE(sum(q.held), 0)::bigint,
                  COALESCE(sum(t.leased), 0)::bigint
           FROM experiments e JOIN versions v USING (experiment_id)
           LEFT JOIN (SELECT version_id, count(*) FILTER (WHERE host_id IS NULL) AS pool,
                             count(*) FILTER (WHERE host_id IS NOT NULL) AS held
                      FROM queue GROUP BY version_id) q USING (version_id)
           LEFT JOIN (SELECT version_id, count(*) AS leased FROM tasks WHERE state = 'leased'
                      GROUP BY version_id) t USING (version_id)
           GROUP BY e.name ORDER BY e.name""",
    )
    return [(str(n), int(p), int(h), int(leased)) for n, p, h, leased in found]
