"""`axiom-server review`: validate and credit the reported tasks, and judge the findings.

A review is one transaction. A review that finds nothing new opens no session and changes nothing,
so a repeated review credits nothing, and later deployments still belong to the last session.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec

from axiom_server.config import Config
from axiom_server.decide.credit import CreditDecision, Earning, decide
from axiom_server.review import seed_budgets
from axiom_server.review.judging import judge_and_record
from axiom_server.review.log import SessionLog
from axiom_server.review.session_log import credit_by_tier, session_log
from axiom_server.store import alarms, credit, session_sums, sessions
from axiom_server.store.credit import CreditEntry, ReportedRow
from axiom_server.store.database import Connection


async def review(connection: Connection, config: Config) -> SessionLog:
    """Review all reported tasks, in the caller's transaction. Returns the new session's log.

    When nothing was reported, returns the latest session's log, with ``opened`` false.
    """
    await sessions.lock_reviews(connection)
    reported = await credit.to_review(connection)
    if not reported:
        return await session_log(connection, config, None, opened=False)
    accepted = {r.task_id: r for r in reported if r.outcome == "success" and not r.refusal}
    decisions = decide(config.credit, [_earning(row) for row in accepted.values()])
    entries = [_entry(accepted[d.task_id], d) for d in decisions if d.amount > 0]
    total = sum((e.amount for e in entries), Decimal(0))
    session_id = await sessions.open_session(connection, len(entries), total)
    await credit.append(connection, session_id, entries)
    await credit.mark_reviewed(connection, [r.task_id for r in reported])
    record = await _record(connection, config, reported, decisions, entries)
    await sessions.save_record(connection, session_id, record)
    await session_sums.add_deployments(connection)
    await credit.update_owners(connection, reported, entries)
    return await session_log(connection, config, session_id, opened=True)


def _earning(row: ReportedRow) -> Earning:
    return Earning(
        task_id=row.task_id, user_id=row.user_id, host_id=row.host_id,
        elapsed_seconds=row.elapsed_seconds, cpu_seconds=row.cpu_seconds,
    )  # fmt: skip


def _entry(row: ReportedRow, decision: CreditDecision) -> CreditEntry:
    return CreditEntry(
        row.task_id, row.user_id, row.host_id, row.experiment_id, row.elapsed_seconds,
        decision.amount,
    )  # fmt: skip


async def _record(
    connection: Connection,
    config: Config,
    reported: Sequence[ReportedRow],
    decisions: Sequence[CreditDecision],
    entries: Sequence[CreditEntry],
) -> dict[str, Any]:
    """The part of the session log that cannot be read from the database later."""
    judged = await judge_and_record(connection)
    return {
        "tiers": msgspec.to_builtins(credit_by_tier(config.credit, entries)),
        "unpaid": _unpaid(reported, decisions),
        "pending": await credit.count_pending(connection),
        "findings": msgspec.to_builtins(judged),
        "seeds": await seed_budgets.descriptions(connection),
        "alarms": [f"{a.experiment}: {a.message}" for a in await alarms.listing(connection)],
    }


def _unpaid(reported: Sequence[ReportedRow], decisions: Sequence[CreditDecision]) -> dict[str, int]:
    """How many reports earned nothing, by outcome, "refused" or "no work"."""
    counts = Counter(r.outcome for r in reported if r.outcome != "success")
    counts["refused"] = sum(1 for r in reported if r.outcome == "success" and r.refusal)
    counts["no work"] = sum(1 for d in decisions if d.amount <= 0)
    return {name: n for name, n in sorted(counts.items()) if n}
