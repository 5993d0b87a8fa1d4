"""Decide which seeds a budget is spent on: those that are expected to decide most findings.

Verdicts are valid at any time, so the server is free to choose when to judge, what to issue next
and when to stop. It only has to wait for every batch that it has issued. The number of seeds that a
finding needs is forecast from how fast its evidence has grown so far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from axiom_protocol.text import counted
from axiom_protocol.verdicts.findings import DECIDED_LOG_E, SEEDS_MIN

FIRST_BATCH = 2 * SEEDS_MIN  # seeds for a question without results: enough for a first forecast
GROWTH = 1.0  # a batch is at most this many times the seeds so far, because the forecast is rough
MARGIN = 1.2  # more seeds than forecast, which would fall short half of the time


@dataclass(frozen=True, kw_only=True)
class OpenFinding:
    """An undecided finding: its number of seeds, and the log e-value of the leading side."""

    name: str
    seeds: int
    log_e: float


@dataclass(frozen=True, kw_only=True)
class Question:
    """One parameter set of an experiment, by which some findings are judged.

    out      seeds that are still being computed
    pending  results that wait for confirmation by another host
    """

    version_id: int
    parameters: int
    findings: Sequence[OpenFinding]
    out: int = 0
    pending: int = 0


@dataclass(frozen=True, kw_only=True)
class SeedDecision:
    """Seeds to issue for a question; or, when ``question`` is None, the reason to issue none.

    close  whether the budget ends: everything is decided, or the rest would decide nothing
    """

    question: Question | None
    seeds: int = 0
    findings: tuple[str, ...] = ()
    reason: str = ""
    close: bool = False


def decide_seeds(questions: Sequence[Question], left: int) -> SeedDecision:
    """The next step of a budget with ``left`` seeds."""
    undecided = [q for q in questions if q.findings]
    if not undecided:
        return SeedDecision(question=None, reason="every finding is decided", close=True)
    if any(q.out for q in undecided):
        out = sum(q.out for q in undecided)
        return SeedDecision(question=None, reason=f"{counted(out, 'seed')} not returned yet")
    if waiting := sum(q.pending for q in undecided):
        return SeedDecision(
            question=None, reason=f"another host is to confirm {counted(waiting, 'result')}"
        )
    if left <= 0:
        return SeedDecision(question=None, reason="the budget is spent", close=True)
    return _best(undecided, left)


def _best(undecided: Sequence[Question], left: int) -> SeedDecision:
    """The question for which a seed decides most findings; of equal ones, the first."""
    plans = [(q, *plan) for q in undecided if (plan := _plan(q, left)) is not None]
    if not plans:
        reason = f"{counted(left, 'seed')} left, which would decide nothing more"
        return SeedDecision(question=None, reason=reason, close=True)
    best, needed, names = max(plans, key=lambda p: (len(p[2]) / p[1], -p[0].version_id))
    so_far = max(f.seeds for f in best.findings)
    limit = FIRST_BATCH if so_far < SEEDS_MIN else max(SEEDS_MIN, math.ceil(GROWTH * so_far))
    return SeedDecision(question=best, seeds=min(needed, limit, left), findings=names)


def _plan(question: Question, left: int) -> tuple[int, tuple[str, ...]] | None:
    """(seeds, findings) with most findings for each seed; None if ``left`` decides no finding."""
    forecast = sorted((needed(f), f.name) for f in question.findings)
    plans = [
        (seeds, tuple(name for n, name in forecast if n <= seeds))
        for seeds, _ in forecast
        if seeds <= left
    ]
    return max(plans, key=lambda p: (len(p[1]) / p[0], -p[0]), default=None)


def needed(finding: OpenFinding) -> int:
    """Further seeds until the finding is decided, if its evidence grows as it did so far."""
    if finding.seeds < SEEDS_MIN:
        return FIRST_BATCH
    if finding.log_e >= DECIDED_LOG_E:
        return SEEDS_MIN  # enough evidence on its own, but not yet for all findings together
    rate = finding.log_e / finding.seeds
    if rate <= 0:  # no growth to extrapolate: double the seeds and forecast again
        return finding.seeds
    return math.ceil(MARGIN * (DECIDED_LOG_E - finding.log_e) / rate)
