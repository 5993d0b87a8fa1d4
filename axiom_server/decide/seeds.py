"""Which seeds a budget is spent on: those that are expected to decide most findings.

A verdict is valid at any time, so that it is the server's to choose when to look, what to issue
next and when to stop; only a batch that was issued is always waited for. How many seeds a finding
needs is foretold from how fast its evidence has grown by now.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from axiom_protocol.verdicts.findings import DECIDED_LOG_E, SEEDS_MIN

FIRST_BATCH = 2 * SEEDS_MIN  # of a question without results: enough to tell its findings apart
GROWTH = 1.0  # a batch is at most this many times what is there: the forecast is only a forecast
MARGIN = 1.2  # more seeds than foretold: of an even chance to fall short, one look less


@dataclass(frozen=True, kw_only=True)
class Open:
    """An undecided finding: its seeds, and how much log e they have brought to either side."""

    name: str
    seeds: int
    log_e: float


@dataclass(frozen=True, kw_only=True)
class Question:
    """One parameter set of an experiment, by which some findings are judged.

    out      its seeds that are still computed
    pending  its results that wait for another host's opinion
    """

    version_id: int
    parameters: int
    findings: Sequence[Open]
    out: int = 0
    pending: int = 0


@dataclass(frozen=True, kw_only=True)
class SeedDecision:
    """Seeds to issue for a question, or (``question`` None) why none is issued.

    close  the budget is done with: everything is decided, or the rest would decide nothing
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
        return SeedDecision(question=None, reason=f"{out} seeds are still out")
    if waiting := sum(q.pending for q in undecided):
        return SeedDecision(question=None, reason=f"{waiting} results wait for another host")
    if left <= 0:
        return SeedDecision(question=None, reason="the budget is spent", close=True)
    return _best(undecided, left)


def _best(undecided: Sequence[Question], left: int) -> SeedDecision:
    """The question of which a seed decides most; of equal ones, the first."""
    plans = [(q, *plan) for q in undecided if (plan := _plan(q, left)) is not None]
    if not plans:
        reason = f"the {left} seeds that are left would decide nothing more"
        return SeedDecision(question=None, reason=reason, close=True)
    best, needed, names = max(plans, key=lambda p: (len(p[2]) / p[1], -p[0].version_id))
    there = max((f.seeds for f in best.findings), default=0)
    most = FIRST_BATCH if there < SEEDS_MIN else max(SEEDS_MIN, math.ceil(GROWTH * there))
    return SeedDecision(question=best, seeds=min(needed, most, left), findings=names)


def _plan(question: Question, left: int) -> tuple[int, tuple[str, ...]] | None:
    """(seeds, findings) with most findings for each seed; None: not within what is left."""
    foretold = sorted((needed(f), f.name) for f in question.findings)
    plans = [
        (seeds, tuple(name for n, name in foretold if n <= seeds))
        for seeds, _ in foretold
        if seeds <= left
    ]
    return max(plans, key=lambda p: (len(p[1]) / p[0], -p[0]), default=None)


def needed(finding: Open) -> int:
    """More seeds until it is decided, if its evidence grows on as it did."""
    if finding.seeds < SEEDS_MIN:
        return FIRST_BATCH
    if finding.log_e >= DECIDED_LOG_E:
        return SEEDS_MIN  # decided alone, and not yet together with the others
    rate = finding.log_e / finding.seeds
    if rate <= 0:  # it has lost evidence so far: twice the seeds may show another picture
        return finding.seeds
    return math.ceil(MARGIN * (DECIDED_LOG_E - finding.log_e) / rate)
