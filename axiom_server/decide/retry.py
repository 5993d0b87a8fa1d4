"""What becomes of a workunit whose task did not succeed."""

from __future__ import annotations

from dataclasses import dataclass

from axiom_protocol.messages import Outcome

ATTEMPTS_MAX = 6  # faults of one workunit before it is given up: the fault is its own by then

#: Outcomes that say something of the experiment or the host; the others say only that it stopped.
FAULTS: frozenset[str] = frozenset({"failed", "timed_out", "over_memory", "over_disk"})


@dataclass(frozen=True, kw_only=True)
class RequeueDecision:
    """Whether the workunit waits again, as which attempt."""

    requeue: bool
    attempt: int


def decide_requeue(outcome: Outcome, refused: bool, attempt: int) -> RequeueDecision:
    """Decide what follows a task's end. A refused result counts as a fault; being lost does not."""
    if outcome == "success" and not refused:
        return RequeueDecision(requeue=False, attempt=attempt)
    if outcome in FAULTS or refused:
        return RequeueDecision(requeue=attempt < ATTEMPTS_MAX, attempt=attempt + 1)
    return RequeueDecision(requeue=True, attempt=attempt)


def count_failures(failing: int, outcome: Outcome, refused: bool, experiment_stopped: bool) -> int:
    """The host's failures since its last success. ``spared``: the experiment was stopped."""
    if outcome == "success" and not refused:
        return 0
    if experiment_stopped or (outcome not in FAULTS and not refused):
        return failing
    return failing + 1
