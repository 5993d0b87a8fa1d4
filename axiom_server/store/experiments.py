"""Experiments, their published versions, and the parameter sets they are deployed with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from axiom_protocol.manifest import Manifest
from axiom_server.store.database import Connection, row, rows


class VersionRow(NamedTuple):
    """One published version, with its decoded manifest; ``tried``: the summary of its dry runs."""

    version_id: int
    experiment_id: int
    name: str
    version: str
    sha256: str
    state: str
    state_reason: str
    weight: float
    published_at: datetime
    manifest: Manifest
    tried: dict[str, Any] | None
    declaration: dict[str, Any] | None = None  # as signed; None for versions published before 0.2


class ParametersRow(NamedTuple):
    """Parameters as given, without defaults, and the seconds that each run may use."""

    parameters_id: int
    parameters: dict[str, Any]
    budget_seconds: float


_VERSION = """
SELECT v.version_id, v.experiment_id, e.name, v.version, v.sha256, v.state, v.state_reason,
       e.weight, v.published_at, v.manifest, v.tried, v.declaration
FROM versions v JOIN experiments e USING (experiment_id)"""


def _version(found: tuple[Any, ...]) -> VersionRow:
    return VersionRow._make((*found[:9], msgspec.convert(found[9], Manifest), *found[10:]))


async def ensure(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    """Experiment ids by name; unknown experiments are created."""
    await connection.execute(
        "INSERT INTO experiments (name) SELECT DISTINCT unnest(%s::text[]) ON CONFLICT DO NOTHING",
        (list(names),),
    )
    found = await rows(
        connection,
        "SELECT name, experiment_id FROM experiments WHERE name = ANY(%s)",
        (list(names),),
    )
    return dict(found)


async def record_version(
    connection: Connection,
    manifest: Manifest,
    sha256: str,
    tried: dict[str, Any] | None,
    declaration: dict[str, Any] | None = None,
) -> bool:
    """Store a published version and retire older ones; False when it was stored before.

    Queued workunits of the older versions are removed, as when staff retire a version.
    """
    ids = await ensure(connection, [manifest.name])
    done = await rows(
        connection,
        """INSERT INTO versions (experiment_id, version, sha256, manifest, tried, declaration)
           VALUES (%s, %s, %s, %s::jsonb, %s::jsonb, %s::jsonb)
           ON CONFLICT (experiment_id, version) DO NOTHING RETURNING version_id""",
        (
            ids[manifest.name],
            manifest.version,
            sha256,
            msgspec.json.encode(manifest).decode(),
            msgspec.json.encode(tried).decode() if tried is not None else None,
            msgspec.json.encode(declaration).decode() if declaration is not None else None,
        ),
    )
    if not done:
        return False
    await connection.execute(
        """WITH older AS (
               UPDATE versions SET state = 'retired', state_reason = %s
               WHERE experiment_id = %s AND version_id <> %s AND state = 'active'
               RETURNING version_id
           ) DELETE FROM queue q USING older o WHERE q.version_id = o.version_id""",
        (f"version {manifest.version} replaced it", ids[manifest.name], done[0][0]),
    )
    return True


async def seeds_seen(connection: Connection, name: str) -> list[tuple[str, int, int, int]]:
    """(version, seeds with a result, first, last) of an experiment, in order of publication."""
    found = await rows(
        connection,
        """SELECT v.version, count(DISTINCT w.seed), min(w.seed), max(w.seed)
           FROM experiments e JOIN versions v USING (experiment_id)
           JOIN results r ON r.version_id = v.version_id
           JOIN workunits w ON w.workunit_id = r.workunit_id
           WHERE e.name = %s GROUP BY v.version_id, v.version ORDER BY v.version_id""",
        (name,),
    )
    return [(str(v), int(n), int(first), int(last)) for v, n, first, last in found]


async def versions(connection: Connection) -> list[VersionRow]:
    """Every published version, by experiment and order of publication."""
    found = await rows(connection, _VERSION + " ORDER BY e.name, v.version_id")
    return [_version(r) for r in found]


async def versions_by_id(connection: Connection, ids: Sequence[int]) -> list[VersionRow]:
    """The versions with these ids."""
    found = await rows(connection, _VERSION + " WHERE v.version_id = ANY(%s)", (list(ids),))
    return [_version(r) for r in found]


async def states(connection: Connection) -> list[tuple[int, str, float]]:
    """(version, state, weight) of all versions: the values that change after publication."""
    found = await rows(
        connection,
        """SELECT v.version_id, v.state, e.weight
           FROM versions v JOIN experiments e USING (experiment_id)""",
    )
    return [(int(v), str(s), float(w)) for v, s, w in found]


async def id_of(connection: Connection, name: str) -> int | None:
    """The id of the experiment of this name."""
    found = await rows(connection, "SELECT experiment_id FROM experiments WHERE name = %s", (name,))
    return int(found[0][0]) if found else None


async def is_published(connection: Connection, name: str) -> bool:
    """Whether a version of it was published here; of an imported experiment none may have been."""
    query = """SELECT FROM versions v JOIN experiments e USING (experiment_id)
               WHERE e.name = %s LIMIT 1"""
    return bool(await rows(connection, query, (name,)))


async def names(connection: Connection) -> list[str]:
    """Names of all experiments, also imported ones."""
    return [r[0] for r in await rows(connection, "SELECT name FROM experiments ORDER BY name")]


async def set_state(connection: Connection, version_id: int, state: str, reason: str) -> int:
    """Retire, stop or resume a version.

    Returns how many workunits were removed from the queue, or, when resumed, queued again.
    """
    await connection.execute(
        "UPDATE versions SET state = %s, state_reason = %s WHERE version_id = %s",
        (state, reason, version_id),
    )
    if state == "active":
        await _reopen_comparisons(connection, version_id)
        return await requeue_all(connection, version_id)
    cursor = await connection.execute("DELETE FROM queue WHERE version_id = %s", (version_id,))
    return cursor.rowcount


async def _reopen_comparisons(connection: Connection, version_id: int) -> None:
    """Compare again what could not be, since the version was retired."""
    await connection.execute(
        """UPDATE comparisons c SET state = 'wanted', settled_at = NULL
           FROM results r WHERE r.version_id = %s AND r.workunit_id = c.workunit_id
             AND NOT r.validated AND c.state = 'given_up' AND c.note = ''""",
        (version_id,),
    )


async def requeue_all(connection: Connection, version_id: int) -> int:
    """Queue a version's unfinished workunits again, for any host; returns how many."""
    cursor = await connection.execute(
        """INSERT INTO queue (workunit_id, version_id, device)
           SELECT w.workunit_id, w.version_id, w.device FROM workunits w
           WHERE w.version_id = %s AND NOT EXISTS (
               SELECT FROM tasks t WHERE t.workunit_id = w.workunit_id
               AND (t.state = 'leased' OR (t.outcome = 'success' AND t.refusal = '')))
           ON CONFLICT DO NOTHING""",
        (version_id,),
    )
    return cursor.rowcount


async def mark_used(connection: Connection, ids: Sequence[int]) -> set[int]:
    """Mark experiments as used; returns the ids of those that were not used before."""
    found = await rows(
        connection,
        """UPDATE experiments SET used_at = now()
           WHERE experiment_id = ANY(%s) AND used_at IS NULL RETURNING experiment_id""",
        (list(ids),),
    )
    return {int(r[0]) for r in found}


async def set_weight(connection: Connection, experiment_id: int, weight: float) -> None:
    """Set an experiment's share of the workunits granted to any host, relative to the others."""
    await connection.execute(
        "UPDATE experiments SET weight = %s WHERE experiment_id = %s", (weight, experiment_id)
    )


async def parameter_sets(connection: Connection, ids: Sequence[int]) -> list[ParametersRow]:
    """The parameter sets with these ids."""
    found = await rows(
        connection,
        """SELECT parameters_id, parameters, budget_seconds FROM parameter_sets
           WHERE parameters_id = ANY(%s)""",
        (list(ids),),
    )
    return [ParametersRow._make(r) for r in found]


async def parameters_id(
    connection: Connection, version_id: int, parameters: dict[str, Any], budget_seconds: float
) -> int:
    """The id of a version's parameter set, created on first use. The order of keys is ignored.

    Its seeds begin after those of the experiment's other versions, so that a finding that was
    changed after their results were seen is judged by new seeds.
    """
    encoded = msgspec.json.encode(parameters, order="deterministic")
    digest = hashlib.sha256(encoded + b"|%r" % budget_seconds).digest()
    await connection.execute(
        """INSERT INTO parameter_sets (version_id, digest, parameters, budget_seconds, next_seed)
           VALUES (%(version)s, %(digest)s, %(parameters)s::jsonb, %(budget)s, (
               SELECT COALESCE(max(p.next_seed), 1) FROM versions mine
               JOIN versions v ON v.experiment_id = mine.experiment_id
                    AND v.version_id <> mine.version_id
               JOIN parameter_sets p ON p.version_id = v.version_id
               WHERE mine.version_id = %(version)s)) ON CONFLICT DO NOTHING""",
        {
            "version": version_id,
            "digest": digest,
            "parameters": encoded.decode(),
            "budget": budget_seconds,
        },
    )
    found = await row(
        connection,
        "SELECT parameters_id FROM parameter_sets WHERE version_id = %s AND digest = %s",
        (version_id, digest),
    )
    return int(found[0])
