"""Results that findings are judged by: those of one version, with seed and parameters."""

from __future__ import annotations

from collections.abc import Sequence

from axiom_protocol.manifest import Manifest
from axiom_protocol.result import Result
from axiom_server.decide.findings import PROBES, Sample
from axiom_server.store.database import Connection, rows

SAMPLES_MAX = 50_000  # newest results of a version; more seeds change no verdict


async def samples(connection: Connection, version_id: int, manifest: Manifest) -> list[Sample]:
    """Results of a version, reduced to the fields that its findings use.

    Not included: results whose comparison is disputed, and runs with less than the declared budget,
    which skipped configurations that the findings are about.
    """
    fields = _fields(manifest)
    found = await rows(
        connection,
        f"""SELECT r.task_id, w.seed, t.host_id, p.parameters, r.valid,
                  ARRAY(SELECT (r.result ->> f)::float8 FROM unnest(%s::text[])
                        WITH ORDINALITY AS a (f, n) ORDER BY n)
           FROM results r JOIN tasks t USING (task_id)
           JOIN workunits w ON w.workunit_id = r.workunit_id
           JOIN parameter_sets p USING (parameters_id)
           WHERE r.version_id = %s AND r.validated AND p.budget_seconds >= %s AND NOT EXISTS (
               SELECT FROM comparisons c WHERE c.workunit_id = r.workunit_id
               AND c.state IN ('disputed', 'given_up') AND c.note <> ''
               AND (SELECT count(*) FROM results o JOIN tasks USING (task_id)
                    WHERE tasks.workunit_id = r.workunit_id) > 1)
           ORDER BY r.task_id DESC LIMIT {SAMPLES_MAX}""",
        (fields, version_id, manifest.expected_seconds),
    )
    return [
        Sample(
            task_id=task_id,
            seed=seed,
            host_id=host_id,
            parameters=manifest.resolve(parameters),
            result={"valid": valid, **dict(zip(fields, values, strict=True))},
        )
        for task_id, seed, host_id, parameters, valid, values in found
    ]


async def probes(connection: Connection, version_id: int) -> list[Result]:
    """Complete valid results of a few seeds of a version, with its most used parameter set."""
    found = await rows(
        connection,
        """WITH valid AS (
               SELECT r.task_id, w.seed, w.parameters_id FROM results r
               JOIN workunits w USING (workunit_id)
               WHERE r.version_id = %(version)s AND r.valid = 1),
           usual AS (
               SELECT parameters_id FROM valid GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1),
           first AS (
               SELECT min(task_id) AS task_id FROM valid JOIN usual USING (parameters_id)
               GROUP BY seed ORDER BY 1 LIMIT %(limit)s)
           SELECT result FROM results JOIN first USING (task_id) ORDER BY task_id""",
        {"version": version_id, "limit": PROBES},
    )
    return [result for (result,) in found]


async def versions_with_results(connection: Connection, ids: Sequence[int]) -> set[int]:
    """Which of these versions have any result."""
    found = await rows(
        connection,
        """SELECT v FROM unnest(%s::bigint[]) AS v
           WHERE EXISTS (SELECT FROM results r WHERE r.version_id = v)""",
        (list(ids),),
    )
    return {int(r[0]) for r in found}


def _fields(manifest: Manifest) -> list[str]:
    """Names of the numeric fields that the findings use."""
    wanted = {f.field for f in manifest.findings} | {
        f.control for f in manifest.findings if f.control
    }
    return sorted(wanted - {"valid"})
