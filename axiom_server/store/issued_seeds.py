"""Every seed that was planned for a version, and its state: reported, failed, lost, late or out."""

from __future__ import annotations

from axiom_protocol.manifest import Manifest
from axiom_protocol.verdicts.samples import IssuedSeed
from axiom_server.store.database import Connection, rows

WORKUNITS_MAX = 50_000  # first workunits of a version; more seeds change no verdict
LATE_SECONDS = 7 * 86400.0  # a workunit that is not leased for so long counts as late

#: The first workunits of a version whose budget is at least the declared one.
PLANNED = f"""SELECT w.workunit_id, w.seed, w.deployment_id, w.parameters_id
    FROM workunits w JOIN parameter_sets p USING (parameters_id)
    WHERE w.version_id = %(version)s AND p.budget_seconds >= %(budget)s
    ORDER BY w.workunit_id LIMIT {WORKUNITS_MAX}"""


async def issued(connection: Connection, version_id: int, manifest: Manifest) -> list[IssuedSeed]:
    """The planned seeds of a version; seeds of one deployment are a batch."""
    found = await rows(
        connection,
        f"""WITH planned AS ({PLANNED}),
           reported AS (SELECT DISTINCT workunit_id FROM results WHERE version_id = %(version)s),
           waiting AS (SELECT workunit_id FROM queue WHERE version_id = %(version)s
                       UNION SELECT workunit_id FROM tasks
                       WHERE version_id = %(version)s AND state = 'leased'),
           ended AS (SELECT workunit_id, bool_or(outcome IN ('failed', 'timed_out', 'over_memory',
                                                             'over_disk') OR refusal <> '') AS fault
                     FROM tasks WHERE version_id = %(version)s AND ended_at IS NOT NULL
                     GROUP BY workunit_id)
           SELECT p.seed, s.parameters, p.deployment_id,
                  CASE WHEN reported.workunit_id IS NOT NULL THEN 'reported'
                       WHEN waiting.workunit_id IS NULL AND ended.fault THEN 'failed'
                       WHEN waiting.workunit_id IS NULL THEN 'lost'
                       WHEN ended.workunit_id IS NOT NULL THEN 'late'
                       WHEN d.deployed_at < now() - %(late)s * interval '1 second' THEN 'late'
                       ELSE 'out' END
           FROM planned p JOIN parameter_sets s USING (parameters_id)
           JOIN deployments d USING (deployment_id)
           LEFT JOIN reported USING (workunit_id) LEFT JOIN waiting USING (workunit_id)
           LEFT JOIN ended USING (workunit_id)
           ORDER BY p.workunit_id""",
        {"version": version_id, "budget": manifest.expected_seconds, "late": LATE_SECONDS},
    )
    return [
        IssuedSeed(
            seed=seed, parameters=manifest.resolve(parameters), batch=batch, state=state
        )
        for seed, parameters, batch, state in found
    ]  # fmt: skip
