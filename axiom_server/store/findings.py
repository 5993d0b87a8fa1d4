"""The data that findings are judged by: checked results of a version, with seed and parameters."""

from __future__ import annotations

from collections.abc import Sequence

from axiom_protocol.manifest import Manifest
from axiom_protocol.result import Result
from axiom_protocol.verdicts.samples import PROBES, Sample
from axiom_server.store.database import Connection, rows
from axiom_server.store.issued_seeds import PLANNED

#: SQL: whether a result counts. It does when other hosts confirmed it, or when its host need not
#: be checked. In a project of only one user, nobody can confirm results, so all of them count.
COUNTS = "(r.validated OR alone)"
ALONE = """(SELECT count(DISTINCT user_id) <= 1 FROM hosts WHERE NOT imported)"""


async def samples(connection: Connection, version_id: int, manifest: Manifest) -> list[Sample]:
    """Results of a version, reduced to the fields that its findings read.

    Left out are results in unsettled disputes, and runs with less than the declared budget, which
    did not compute everything that the findings are about.
    """
    fields = _fields(manifest)
    found = await rows(
        connection,
        f"""WITH planned AS ({PLANNED})
           SELECT r.task_id, w.seed, t.host_id, p.parameters, r.valid, {COUNTS},
                  ARRAY(SELECT (r.result ->> f)::float8 FROM unnest(%(fields)s::text[])
                        WITH ORDINALITY AS a (f, n) ORDER BY n)
           FROM results r JOIN tasks t USING (task_id)
           JOIN planned w ON w.workunit_id = r.workunit_id
           JOIN parameter_sets p USING (parameters_id)
           CROSS JOIN {ALONE} AS a (alone)
           LEFT JOIN comparisons c ON c.workunit_id = r.workunit_id
           WHERE r.version_id = %(version)s AND NOT (
               c.state IS NOT NULL AND c.state IN ('disputed', 'given_up') AND c.note <> ''
               AND (SELECT count(*) FROM results o JOIN tasks USING (task_id)
                    WHERE tasks.workunit_id = r.workunit_id) > 1)
           ORDER BY r.task_id""",
        {"fields": fields, "version": version_id, "budget": manifest.expected_seconds},
    )  # fmt: skip
    return [
        Sample(
            task_id=task_id,
            seed=seed,
            host_id=host_id,
            parameters=manifest.resolve(parameters),
            result={"valid": valid, **dict(zip(fields, values, strict=True))},
            settled=settled,
        )
        for task_id, seed, host_id, parameters, valid, settled, values in found
    ]


async def probes(connection: Connection, version_id: int) -> list[Result]:
    """Complete valid results of a few seeds of a version, all with its most used parameters.

    Only results that count; otherwise one newcomer could void every finding with a few false
    results.
    """
    found = await rows(
        connection,
        f"""WITH valid AS (
               SELECT r.task_id, w.seed, w.parameters_id FROM results r
               JOIN workunits w USING (workunit_id) CROSS JOIN {ALONE} AS a (alone)
               WHERE r.version_id = %(version)s AND r.valid = 1 AND {COUNTS}),
           usual AS (
               SELECT parameters_id FROM valid GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1),
           first AS (
               SELECT min(task_id) AS task_id FROM valid JOIN usual USING (parameters_id)
               GROUP BY seed ORDER BY 1 LIMIT %(most)s)
           SELECT result FROM results JOIN first USING (task_id) ORDER BY task_id""",
        {"version": version_id, "most": PROBES},
    )
    return [result for (result,) in found]


async def drawn_results(
    connection: Connection, version_id: int, manifest: Manifest, limit: int
) -> list[tuple[int, Result]]:
    """(seed, result) of a version's first seeds, for its declared figures: valid ones that count.

    All have the defaults, or else the most used parameters; one result is taken of each seed.
    """
    found = await rows(
        connection,
        f"""WITH planned AS ({PLANNED}),
           usual AS (SELECT parameters_id FROM planned JOIN parameter_sets p USING (parameters_id)
                     GROUP BY 1, p.parameters = '{{}}'
                     ORDER BY p.parameters = '{{}}' DESC, count(*) DESC, 1 LIMIT 1)
           SELECT DISTINCT ON (w.seed) w.seed, r.result
           FROM planned w JOIN usual USING (parameters_id)
           JOIN results r ON r.workunit_id = w.workunit_id AND r.version_id = %(version)s
           CROSS JOIN {ALONE} AS a (alone)
           LEFT JOIN comparisons c ON c.workunit_id = r.workunit_id
           WHERE r.valid = 1 AND {COUNTS}
             AND NOT (COALESCE(c.state, '') IN ('disputed', 'given_up') AND c.note <> '')
           ORDER BY w.seed, r.task_id LIMIT %(limit)s""",
        {"version": version_id, "budget": manifest.expected_seconds, "limit": limit},
    )
    return [(int(seed), result) for seed, result in found]


async def count_results(connection: Connection, version_id: int) -> int:
    """How many results there are of a version, those that do not count too."""
    found = await rows(
        connection, "SELECT count(*) FROM results WHERE version_id = %s", (version_id,)
    )
    return int(found[0][0])


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
    """Names of the result fields that the findings read."""
    wanted = {f.field for f in manifest.findings} | {
        f.control for f in manifest.findings if f.control
    }
    return sorted(wanted - {"valid"})
