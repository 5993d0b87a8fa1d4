"""Decide whether a workunit is queued again after its task ended."""

from __future__ import annotations

from dataclasses import dataclass

from axiom_protocol.messages import Outcome

ATTEMPTS_MAX = 6  # faulty attempts of one workunit before it is given up as its own fault

#: Outcomes that point to a fault of the experiment or the host; with the others it just stopped.
FAULTS: frozenset[str] = frozenset({"failed", "timed_out", "over_memory", "over_disk"})


@dataclass(frozen=True, kw_only=True)
class RequeueDecision:
    """Whether the workunit is queued again, and as which attempt."""

    requeue: bool
    attempt: int


def decide_requeue(outcome: Outcome, refused: bool, attempt: int) -> RequeueDecision:
    """Decide after a task ended. A refused result counts as a fault; a lost task does not."""
    if outcome == "success" and not refused:
        return RequeueDecision(requeue=False, attempt=attempt)
    if outcome in FAULTS or refused:
        return RequeueDecision(requeue=attempt < ATTEMPTS_MAX, attempt=attempt + 1)
    return RequeueDecision(requeue=True, attempt=attempt)


def count_failures(failing: int, outcome: Outcome, refused: bool, experiment_stopped: bool) -> int:
    """The host's failures since its last success.

    experiment_stopped  the experiment was stopped, so its faults do not count against the host
    """
    if outcome == "success" and not refused:
        return 0
    if experiment_stopped or (outcome not in FAULTS and not refused):
        return failing
    return failing + 1
