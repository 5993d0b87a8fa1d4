"""Import another project's users, hosts and results; importing them again changes nothing.

Imported results have elapsed seconds but no numbers: they earn credit, and no finding uses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from axiom_server.store import experiments, users
from axiom_server.store.database import Connection, rows


class ImportedResultRow(NamedTuple):
    """A result of the other project."""

    result_id: int
    user: str
    host_id: int
    experiment: str
    elapsed_seconds: float


class ImportedHostRow(NamedTuple):
    """An idle host of the other project."""

    host_id: int
    name: str
    cpu_cores: int
    gpus: int


async def is_new_file(connection: Connection, digest: bytes) -> bool:
    """Record a file by its sha256; False when it was imported before."""
    found = await rows(
        connection,
        "INSERT INTO imported_files (digest) VALUES (%s) ON CONFLICT DO NOTHING RETURNING digest",
        (digest,),
    )
    return bool(found)


async def add_hosts(
    connection: Connection, source: str, owners: dict[int, str], idle: Sequence[ImportedHostRow]
) -> dict[int, int]:
    """Add the hosts that are new, and store their idle slots. Returns external id -> id here.

    A host keeps its id if that id is free here.
    """
    names = {host.host_id: host.name for host in idle}
    wanted = sorted(owners.keys() | names.keys())
    user_ids = await users.ensure(connection, sorted(set(owners.values())))
    known: dict[int, int] = dict(
        await rows(
            connection,
            """SELECT external_id, host_id FROM imported_hosts
               WHERE source = %s AND external_id = ANY(%s)""",
            (source, wanted),
        )
    )
    new = [external for external in wanted if external not in known]
    made = await rows(
        connection,
        """INSERT INTO hosts (host_id, user_id, name, imported)
           SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::boolean[])
           ON CONFLICT (host_id) DO NOTHING RETURNING host_id""",
        (
            new,
            [user_ids.get(owners.get(external, "")) for external in new],
            [names.get(external, f"host-{external}") for external in new],
            [True] * len(new),
        ),
    )
    same = {int(r[0]) for r in made}
    await connection.execute(
        """SELECT setval(pg_get_serial_sequence('hosts', 'host_id'),
                         GREATEST((SELECT max(host_id) FROM hosts),
                                  nextval(pg_get_serial_sequence('hosts', 'host_id'))))"""
    )
    known |= {external: external for external in same}
    for external in (e for e in new if e not in same):
        found = await rows(
            connection,
            "INSERT INTO hosts (user_id, name, imported) VALUES (%s, %s, true) RETURNING host_id",
            (
                user_ids.get(owners.get(external, "")),
                names.get(external, f"host-{external}"),
            ),
        )
        known[external] = int(found[0][0])
    await connection.execute(
        """INSERT INTO imported_hosts (source, external_id, host_id)
           SELECT %s, * FROM unnest(%s::bigint[], %s::bigint[])""",
        (source, new, [known[external] for external in new]),
    )
    await connection.execute(
        """UPDATE hosts h SET name = i.name, cpu_cores = i.cpu, gpus = i.gpu,
                  idle_cpu = i.cpu, idle_gpu = i.gpu
           FROM unnest(%s::bigint[], %s::text[], %s::int[], %s::int[])
                AS i (host_id, name, cpu, gpu)
           WHERE h.host_id = i.host_id AND h.imported""",
        (
            [known[host.host_id] for host in idle],
            [host.name for host in idle],
            [host.cpu_cores for host in idle],
            [host.gpus for host in idle],
        ),
    )
    return known


async def add_results(
    connection: Connection, source: str, results: Sequence[ImportedResultRow], hosts: dict[int, int]
) -> int:
    """Add new results, as reported and not yet reviewed. Returns how many."""
    ids = [r.result_id for r in results]
    known = {
        int(r[0])
        for r in await rows(
            connection,
            """SELECT external_id FROM imported_results
               WHERE source = %s AND external_id = ANY(%s)""",
            (source, ids),
        )
    }
    new = [r for r in results if r.result_id not in known]
    if not new:
        return 0
    user_ids = await users.ensure(connection, sorted({r.user for r in new}))
    experiment_ids = await experiments.ensure(connection, sorted({r.experiment for r in new}))
    await connection.execute(
        "UPDATE experiments SET used_at = now() WHERE used_at IS NULL AND experiment_id = ANY(%s)",
        (list(experiment_ids.values()),),
    )
    await connection.execute(
        """WITH given AS (
               SELECT nextval(pg_get_serial_sequence('tasks', 'task_id')) AS task_id, *
               FROM unnest(%(external)s::bigint[], %(user)s::bigint[], %(host)s::bigint[],
                           %(experiment)s::bigint[], %(elapsed)s::float8[])
                    AS g (external_id, user_id, host_id, experiment_id, elapsed)
           ), made AS (
               INSERT INTO tasks (task_id, experiment_id, host_id, user_id, state, granted_at,
                                  deadline_at, ended_at, outcome, claimed_seconds, elapsed_seconds)
               SELECT task_id, experiment_id, host_id, user_id, 'reported', now(), now(), now(),
                      'success', elapsed, elapsed FROM given
           )
           INSERT INTO imported_results (source, external_id, task_id)
           SELECT %(source)s, external_id, task_id FROM given""",
        {
            "source": source,
            "external": [r.result_id for r in new],
            "user": [user_ids[r.user] for r in new],
            "host": [hosts[r.host_id] for r in new],
            "experiment": [experiment_ids[r.experiment] for r in new],
            "elapsed": [r.elapsed_seconds for r in new],
        },
    )
    return len(new)
