"""The credit ledger (append-only, one entry for each task), and totals by user and host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from axiom_server.decide.credit import averaged
from axiom_server.store import statistics
from axiom_server.store.database import Connection, row, rows
from axiom_server.store.owner_locks import lock_owners


class ReportedRow(NamedTuple):
    """A reported task that waits for a review."""

    task_id: int
    user_id: int | None
    host_id: int
    experiment_id: int
    elapsed_seconds: float
    cpu_seconds: float | None
    outcome: str
    refusal: str


class CreditEntry(NamedTuple):
    """One entry of the ledger."""

    task_id: int
    user_id: int | None
    host_id: int
    experiment_id: int
    elapsed_seconds: float
    amount: Decimal


async def to_review(connection: Connection) -> list[ReportedRow]:
    """Reported tasks, locked. Those with an unfinished comparison wait for a later review."""
    found = await rows(
        connection,
        """SELECT t.task_id, t.user_id, t.host_id, t.experiment_id,
                  COALESCE(t.elapsed_seconds, 0), t.cpu_seconds, t.outcome, t.refusal
           FROM tasks t
           WHERE t.state = 'reported' AND NOT EXISTS (
               SELECT FROM comparisons c WHERE c.workunit_id = t.workunit_id
               AND c.state IN ('wanted', 'placed', 'disputed'))
           ORDER BY t.task_id FOR NO KEY UPDATE OF t""",
    )
    return [ReportedRow._make(r) for r in found]


async def count_pending(connection: Connection) -> int:
    """Number of reported tasks that are not reviewed yet."""
    found = await row(connection, "SELECT count(*) FROM tasks WHERE state = 'reported'")
    return int(found[0])


async def mark_reviewed(connection: Connection, tasks: Sequence[int]) -> None:
    """Mark tasks as reviewed, and count how they ended."""
    await connection.execute(
        "UPDATE tasks SET state = 'reviewed' WHERE task_id = ANY(%s)", (list(tasks),)
    )
    await statistics.record_outcomes(connection, tasks)


async def append(connection: Connection, session_id: int, entries: Sequence[CreditEntry]) -> None:
    """Append entries, and add them to the sums of their session, in the caller's transaction."""
    await connection.execute(
        """INSERT INTO credit (session_id, task_id, user_id, host_id, experiment_id,
                               elapsed_seconds, amount)
           SELECT %s, * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
                                    %s::float8[], %s::numeric[])""",
        (session_id, *map(list, zip(*entries, strict=True)))
        if entries
        else (session_id, *[[]] * 6),
    )
    await statistics.record_session(connection, session_id)


async def update_owners(
    connection: Connection, reported: Sequence[ReportedRow], entries: Sequence[CreditEntry]
) -> None:
    """Update totals, averages and numbers of pending tasks of the hosts and users.

    This locks their rows until the transaction ends, so that it comes last: syncs wait for them.
    """
    pending = Counter(row.host_id for row in reported)
    users = {row.user_id for row in reported if row.user_id is not None}
    await lock_owners(connection, pending, users)
    await connection.execute(
        """UPDATE hosts h SET pending = GREATEST(0, h.pending - reviewed.tasks)
           FROM unnest(%s::bigint[], %s::int[]) AS reviewed (host_id, tasks)
           WHERE h.host_id = reviewed.host_id""",
        (list(pending), list(pending.values())),
    )
    for table, key, index in (("hosts", "host_id", 2), ("users", "user_id", 1)):
        sums: dict[int, Decimal] = {}
        for entry in entries:
            owner = entry[index]
            if isinstance(owner, int):
                sums[owner] = sums.get(owner, Decimal(0)) + entry.amount
        await _add(connection, table, key, sums)


async def _add(connection: Connection, table: str, key: str, sums: dict[int, Decimal]) -> None:
    found = await rows(
        connection,
        f"SELECT {key}, average, average_at, now() FROM {table} WHERE {key} = ANY(%s)",
        (list(sums),),
    )
    changed = [
        (owner, sums[owner], averaged(average, _seconds(since, now), float(sums[owner])))
        for owner, average, since, now in found
    ]
    await connection.execute(
        f"""UPDATE {table} t SET credit_total = t.credit_total + c.amount, average = c.average,
                average_at = now()
            FROM unnest(%s::bigint[], %s::numeric[], %s::float8[]) AS c (id, amount, average)
            WHERE t.{key} = c.id""",
        ([c[0] for c in changed], [c[1] for c in changed], [c[2] for c in changed]),
    )


def _seconds(since: datetime | None, now: datetime) -> float:
    return (now - since).total_seconds() if since is not None else 0.0


class CreditSum(NamedTuple):
    """The credit that a host earned for a user with one experiment, in one session."""

    user_id: int | None
    host_id: int
    experiment_id: int
    results: int
    amount: Decimal


async def session_sums(connection: Connection, session_id: int) -> list[CreditSum]:
    """The entries of a session summed up by user, host and experiment."""
    found = await rows(
        connection,
        """SELECT user_id, host_id, experiment_id, count(*), sum(amount) FROM credit
           WHERE session_id = %s GROUP BY 1, 2, 3""",
        (session_id,),
    )
    return [CreditSum._make(r) for r in found]


async def names(
    connection: Connection, users: Sequence[int], experiments: Sequence[int]
) -> tuple[dict[int, str], dict[int, str]]:
    """Names of users and experiments by id."""
    found = await rows(
        connection,
        """SELECT user_id, CASE WHEN shown THEN name ELSE '(hidden)' END FROM users
           WHERE user_id = ANY(%s)""",
        (list(users),),
    )
    also = await rows(
        connection,
        "SELECT experiment_id, name FROM experiments WHERE experiment_id = ANY(%s)",
        (list(experiments),),
    )
    return dict(found), dict(also)
