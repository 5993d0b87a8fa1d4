"""The epoch of the database, its backups, and tasks of the previous epoch."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import datetime

from msgspec import Struct

from axiom_protocol.messages import Work
from axiom_protocol.text import one_line
from axiom_server.decide.epoch import SEEDS_AHEAD_MAX, Epoch, first_task_id
from axiom_server.store.database import Connection, row, rows


async def current(connection: Connection) -> Epoch:
    """The current epoch."""
    found = await row(
        connection,
        """SELECT epoch, extract(epoch FROM e.began_at)::float8, last_task_id, first_task_id,
                  extract(epoch FROM restored_from)::float8,
                  (SELECT extract(epoch FROM max(b.began_at))::float8 FROM backups b
                   WHERE b.finished_at IS NOT NULL)
           FROM epochs e ORDER BY e.began_at DESC LIMIT 1""",
    )
    epoch, began_at, last, first, restored_from, backed_up_at = found
    return Epoch(
        epoch=epoch, began_at=began_at, last_task_id=last, first_task_id=first,
        restored_from=restored_from, backed_up_at=backed_up_at,
    )  # fmt: skip


async def begin(connection: Connection) -> str:
    """Begin an epoch, in a database that was restored from a backup; returns its random name.

    Everybody is signed out: a session or link that was ended after the backup is not to work again.
    """
    last, now = await row(
        connection,
        """SELECT GREATEST((SELECT COALESCE(max(task_id), 0) FROM tasks),
                           (SELECT COALESCE(max(first_task_id) - 1, 0) FROM epochs)),
                  extract(epoch FROM clock_timestamp())::float8""",
    )
    first, name = first_task_id(now, last), secrets.token_hex(16)
    await connection.execute(f"ALTER TABLE tasks ALTER COLUMN task_id RESTART WITH {first:d}")
    await connection.execute(
        """INSERT INTO epochs (epoch, last_task_id, first_task_id, restored_from)
           VALUES (%s, %s, %s, (SELECT max(began_at) FROM backups))""",
        (name, last, first),
    )
    for table in ("web_sessions", "staff_sessions", "sign_in_links"):
        await connection.execute(f"DELETE FROM {table}")  # ended since the backup, for all we know
    return name


async def begin_backup(connection: Connection) -> int:
    """Record that a backup begins; commit it before the dump begins, so that the dump has it."""
    found = await row(connection, "INSERT INTO backups DEFAULT VALUES RETURNING backup_id")
    return int(found[0])


async def finish_backup(connection: Connection, backup_id: int) -> None:
    """Record that a backup is complete."""
    await connection.execute(
        "UPDATE backups SET finished_at = clock_timestamp() WHERE backup_id = %s", (backup_id,)
    )


# --- tasks of the previous epoch ------------------------------------------------------------------


class ClaimedResult(Struct, frozen=True, kw_only=True):
    """A result of the previous epoch, as its host describes it."""

    host_id: int
    user_id: int | None
    task_id: int
    work: Work


async def find_recovered(
    connection: Connection, hosts: Collection[int], numbers: Collection[int]
) -> dict[tuple[int, int], int]:
    """The tasks that replace task numbers of the previous epoch: (host, number) -> task."""
    found = await rows(
        connection,
        """SELECT host_id, number_before, task_id FROM recovered_tasks
           WHERE host_id = ANY(%s) AND number_before = ANY(%s)""",
        (list(hosts), list(numbers)),
    )
    return {(host_id, number): task_id for host_id, number, task_id in found}


async def count_recovered(connection: Connection, host_id: int) -> int:
    """How many results of the previous epoch a host's account has reported."""
    found = await row(
        connection,
        """SELECT count(*) FROM recovered_tasks r JOIN hosts h USING (host_id)
           WHERE h.host_id = %(host)s
              OR h.user_id = (SELECT user_id FROM hosts WHERE host_id = %(host)s)""",
        {"host": host_id},
    )
    return int(found[0])


async def find_version(connection: Connection, work: Work) -> int | None:
    """The version that a result was computed with; None when it was never published here."""
    found = await rows(
        connection,
        """SELECT v.version_id FROM versions v JOIN experiments e USING (experiment_id)
           WHERE e.name = %s AND v.version = %s""",
        (one_line(work.experiment), one_line(work.version)),  # PostgreSQL refuses zero bytes
    )
    return int(found[0][0]) if found else None


async def ensure_workunit(
    connection: Connection, version_id: int, parameters_id: int, work: Work
) -> int | None:
    """The workunit of a result, created when its deployment was lost with the restore.

    Its seed is then never deployed again. None for a seed far above those that are known.
    """
    known = await rows(
        connection,
        "SELECT workunit_id FROM workunits WHERE parameters_id = %s AND seed = %s",
        (parameters_id, work.seed),
    )
    if known:
        return int(known[0][0])
    found = await rows(
        connection,
        f"""WITH later AS (
               UPDATE parameter_sets SET next_seed = GREATEST(next_seed, %(seed)s + 1)
               WHERE parameters_id = %(parameters)s AND %(seed)s < next_seed + {SEEDS_AHEAD_MAX}
               RETURNING parameters_id
           )
           INSERT INTO workunits (version_id, parameters_id, seed, deployment_id, device)
           SELECT %(version)s, parameters_id, %(seed)s, %(deployment)s, %(device)s FROM later
           RETURNING workunit_id""",
        {
            "version": version_id, "parameters": parameters_id, "seed": work.seed,
            "device": work.device, "deployment": await _deployment(connection),
        },
    )  # fmt: skip
    return int(found[0][0]) if found else None


async def _deployment(connection: Connection) -> int:
    """The deployment of workunits whose own deployment was lost: one for each epoch."""
    await connection.execute(
        """INSERT INTO deployments (session_id, kind, workunits, record)
           SELECT (SELECT max(session_id) FROM sessions), 'recovered', 0,
                  '{"pool": 0, "experiments": [], "hosts": []}'
           WHERE NOT EXISTS (SELECT FROM deployments WHERE kind = 'recovered'
                             AND deployed_at >= (SELECT max(began_at) FROM epochs))"""
    )
    found = await row(
        connection, "SELECT max(deployment_id) FROM deployments WHERE kind = 'recovered'"
    )
    return int(found[0])


async def adopt_task(
    connection: Connection, claimed: ClaimedResult, workunit_id: int, granted_at: datetime
) -> None:
    """Assign a task to a result of the previous epoch: the host's own, or a new one.

    A task of the host that has ended without a result since cannot take one. A new task is stored
    as lost, so that the report ends it like any late report.
    """
    own = await rows(
        connection,
        """SELECT task_id FROM tasks WHERE workunit_id = %s AND host_id = %s
             AND (state IN ('leased', 'lost') OR outcome = 'success')
           ORDER BY state = 'lost', task_id DESC LIMIT 1""",
        (workunit_id, claimed.host_id),
    )
    task_id = own[0][0] if own else await _make_task(connection, claimed, workunit_id, granted_at)
    await connection.execute(
        """INSERT INTO recovered_tasks (host_id, number_before, task_id) VALUES (%s, %s, %s)
           ON CONFLICT DO NOTHING""",
        (claimed.host_id, claimed.task_id, task_id),
    )


async def _make_task(
    connection: Connection, claimed: ClaimedResult, workunit_id: int, granted_at: datetime
) -> int:
    found = await row(
        connection,
        """INSERT INTO tasks (workunit_id, experiment_id, version_id, host_id, user_id, device,
                              purpose, state, granted_at, deadline_at, ended_at, outcome)
           SELECT workunit_id, v.experiment_id, version_id, %(host)s, %(user)s, %(device)s,
                  CASE WHEN EXISTS (SELECT FROM results WHERE workunit_id = %(workunit)s)
                       THEN 'replica' ELSE 'first' END,
                  'lost', %(granted)s, now(), now(), 'lost'
           FROM workunits JOIN versions v USING (version_id) WHERE workunit_id = %(workunit)s
           RETURNING task_id""",
        {
            "workunit": workunit_id, "host": claimed.host_id, "user": claimed.user_id,
            "device": claimed.work.device,
            "granted": granted_at,
        },
    )  # fmt: skip
    return int(found[0])
