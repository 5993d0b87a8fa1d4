"""All accepted results of one version, read a few at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from axiom_server.store.database import Connection, Pool, row, rows

BATCH = 200  # results read at a time; one may have a megabyte
WINDOW = 10_000  # task numbers looked through at a time, at first
WINDOW_MAX = 1_000_000  # of versions whose results lie far apart
COLUMNS = (
    "task_id", "seed", "parameters", "budget_seconds", "purpose", "host_id", "device",
    "elapsed_seconds", "cpu_seconds", "valid", "confirmed", "result",
)  # fmt: skip


class ParameterSet(NamedTuple):
    """One parameter set of a version. ``next_seed``: the first seed that was not given out."""

    parameters: dict[str, Any]
    budget_seconds: float
    next_seed: int


async def parameter_sets(connection: Connection, version_id: int) -> list[ParameterSet]:
    """A version's parameter sets as given, in the order in which they were first used."""
    found = await rows(
        connection,
        """SELECT parameters, budget_seconds, next_seed FROM parameter_sets
           WHERE version_id = %s ORDER BY parameters_id""",
        (version_id,),
    )
    return [ParameterSet._make(r) for r in found]


async def batches(pool: Pool, version_id: int, most: int) -> AsyncIterator[list[tuple[Any, ...]]]:
    """The results in the order of their tasks, as lines of COLUMNS; at most ``most``."""
    async with pool.connection() as connection:
        last = int((await row(connection, "SELECT COALESCE(max(task_id), 0) FROM results"))[0])
    after, width, count = 0, WINDOW, 0
    while after < last and count < most:
        until = min(last, after + width)
        async with pool.connection() as connection:
            found = await _batch(connection, version_id, after, until)
        if found:
            yield found
        count += len(found)
        full = len(found) == BATCH
        after = int(found[-1][0]) if full else until
        width = WINDOW if found else min(WINDOW_MAX, 2 * width)


async def _batch(
    connection: Connection, version_id: int, after: int, until: int
) -> list[tuple[Any, ...]]:
    return await rows(
        connection,
        """SELECT r.task_id, w.seed, p.parameters, p.budget_seconds, t.purpose, t.host_id, t.device,
                  t.elapsed_seconds, t.cpu_seconds, r.valid, r.validated, r.result
           FROM results r JOIN tasks t ON t.task_id = r.task_id
           JOIN workunits w ON w.workunit_id = r.workunit_id
           JOIN parameter_sets p USING (parameters_id)
           WHERE r.version_id = %s AND r.task_id > %s AND r.task_id <= %s
             AND t.outcome = 'success' AND t.refusal = ''
           ORDER BY r.task_id LIMIT %s""",
        (version_id, after, until, BATCH),
    )
