"""Export results as one flat table, for analysis with other programs."""

from __future__ import annotations

from collections.abc import AsyncIterator

from psycopg import sql

from axiom_server.store.database import Connection
from axiom_server.store.findings import ALONE, COUNTS

#: Column -> its DuckDB type. Parameters include the defaults of the version that ran. Unknown
#: values of imported results are NULL.
COLUMNS = {
    "task_id": "BIGINT",
    "workunit_id": "BIGINT",
    "experiment": "VARCHAR",
    "version": "VARCHAR",
    "parameters": "JSON",
    "seed": "BIGINT",
    "budget_seconds": "DOUBLE",
    "purpose": "VARCHAR",  # first, or a replica or tiebreak of the same seed
    "host_id": "BIGINT",
    "user_id": "BIGINT",
    "device": "VARCHAR",
    "granted_at": "TIMESTAMPTZ",
    "ended_at": "TIMESTAMPTZ",
    "elapsed_seconds": "DOUBLE",
    "cpu_seconds": "DOUBLE",
    "peak_memory_bytes": "BIGINT",
    "valid": "BOOLEAN",  # the experiment's own sanity checks passed
    "result": "JSON",
    "credit": "DECIMAL(14,3)",  # NULL: not reviewed yet
    "validated": "BOOLEAN",  # counted: confirmed by others, or exempt from the check
}

RESULTS = """
WITH ran AS (
    SELECT p.parameters_id, v.version, p.budget_seconds, COALESCE((
        SELECT jsonb_object_agg(name, value -> 'default')
        FROM jsonb_each(v.manifest -> 'parameters') AS d (name, value)), '{{}}') || p.parameters
        AS parameters
    FROM parameter_sets p JOIN versions v USING (version_id)
)
SELECT t.task_id, t.workunit_id, e.name AS experiment, ran.version, ran.parameters, w.seed,
       ran.budget_seconds, t.purpose, t.host_id, t.user_id, t.device, t.granted_at, t.ended_at,
       t.elapsed_seconds, t.cpu_seconds, t.peak_memory_bytes, r.valid = 1 AS valid, r.result,
       c.amount AS credit, COALESCE({counts}, false) AS validated
FROM tasks t JOIN experiments e USING (experiment_id)
LEFT JOIN results r ON r.task_id = t.task_id
LEFT JOIN workunits w ON w.workunit_id = t.workunit_id
LEFT JOIN ran ON ran.parameters_id = w.parameters_id
LEFT JOIN credit c ON c.task_id = t.task_id
CROSS JOIN {alone} AS a (alone)
WHERE t.outcome = 'success' AND t.refusal = '' AND t.state IN ('reported', 'reviewed')
  AND ({names}::text[] IS NULL OR e.name = ANY({names}))
ORDER BY t.task_id"""


async def results_csv(
    connection: Connection, names: list[str] | None
) -> AsyncIterator[bytes | bytearray | memoryview]:
    """Accepted results of these experiments (None: all) as CSV with a header, in pieces.

    The pieces are one snapshot of the database.
    """
    query = sql.SQL(RESULTS).format(
        names=sql.Literal(names), counts=sql.SQL(COUNTS), alone=sql.SQL(ALONE)
    )
    copy = sql.SQL("COPY ({}) TO STDOUT WITH (FORMAT csv, HEADER)").format(query)
    await connection.execute("SET LOCAL TIME ZONE 'UTC'")
    async with connection.cursor() as cursor, cursor.copy(copy) as pieces:
        async for piece in pieces:
            yield piece
