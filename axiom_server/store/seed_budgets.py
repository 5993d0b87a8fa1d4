"""Seed budgets: the seeds that staff allow, those issued, and why a budget waits or was closed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from axiom_server.store.database import Connection, row, rows


class BudgetRow(NamedTuple):
    """One budget. ``names``: the names of its experiments."""

    budget_id: int
    given_at: datetime
    versions: list[int]
    names: list[str]
    seeds: int
    issued: int
    batches: int
    state: str
    reason: str

    @property
    def left(self) -> int:
        """Seeds that may still be issued."""
        return self.seeds - self.issued


_BUDGET = """SELECT b.budget_id, b.given_at, b.versions,
       ARRAY(SELECT e.name FROM versions v JOIN experiments e USING (experiment_id)
             WHERE v.version_id = ANY(b.versions) ORDER BY e.name),
       b.seeds, b.issued,
       (SELECT count(*) FROM seed_budget_batches s WHERE s.budget_id = b.budget_id),
       b.state, b.reason
FROM seed_budgets b"""


async def give(connection: Connection, versions: Sequence[int], seeds: int) -> int:
    """Store a new budget; returns its id."""
    found = await row(
        connection,
        "INSERT INTO seed_budgets (versions, seeds) VALUES (%s, %s) RETURNING budget_id",
        (list(versions), seeds),
    )
    return int(found[0])


async def open_budgets(connection: Connection) -> list[BudgetRow]:
    """Open budgets whose issued workunits have all returned, locked until the transaction ends."""
    found = await rows(
        connection,
        _BUDGET
        + """ WHERE b.state = 'open' AND NOT EXISTS (
               SELECT FROM seed_budget_batches s JOIN workunits w USING (deployment_id)
               WHERE s.budget_id = b.budget_id AND (
                   EXISTS (SELECT FROM queue q WHERE q.workunit_id = w.workunit_id)
                   OR EXISTS (SELECT FROM tasks t WHERE t.workunit_id = w.workunit_id
                              AND t.state = 'leased')))
           ORDER BY b.budget_id FOR UPDATE OF b SKIP LOCKED""",
    )
    return [BudgetRow._make(r) for r in found]


async def listing(connection: Connection) -> list[BudgetRow]:
    """Every budget, in the order in which they were given."""
    return [BudgetRow._make(r) for r in await rows(connection, _BUDGET + " ORDER BY b.budget_id")]


async def add_batch(
    connection: Connection, budget_id: int, deployment_id: int, version_id: int, seeds: int,
    findings: Sequence[str],
) -> None:  # fmt: skip
    """Store a batch of seeds issued from a budget."""
    await connection.execute(
        """INSERT INTO seed_budget_batches (budget_id, deployment_id, version_id, seeds, findings)
           VALUES (%s, %s, %s, %s, %s)""",
        (budget_id, deployment_id, version_id, seeds, list(findings)),
    )
    await connection.execute(
        "UPDATE seed_budgets SET issued = issued + %s, reason = '' WHERE budget_id = %s",
        (seeds, budget_id),
    )


async def set_reason(connection: Connection, budget_id: int, reason: str, *, close: bool) -> None:
    """Store why no seeds are issued; with ``close``, close the budget."""
    await connection.execute(
        "UPDATE seed_budgets SET reason = %s, state = %s WHERE budget_id = %s",
        (reason, "closed" if close else "open", budget_id),
    )
