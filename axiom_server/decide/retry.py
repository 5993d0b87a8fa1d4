"""Decide whether a workunit is queued again after its task ended."""

from __future__ import annotations

from dataclasses import dataclass

from axiom_protocol.messages import Outcome

ATTEMPTS_MAX = 6  # of one workunit before a fault gives it up: the fault is its own by then
#: ... before a loss does. Hosts are switched off and networks fail, so one more loss says little;
#: but a workunit that kills its process, or the agent, is never seen to fail in another way.
LOSSES_MAX = 12

#: Outcomes that point to a fault of the experiment or the host; with the others it just stopped.
FAULTS: frozenset[str] = frozenset({"failed", "timed_out", "over_memory", "over_disk"})


@dataclass(frozen=True, kw_only=True)
class RequeueDecision:
    """Whether the workunit is queued again, and as which attempt."""

    requeue: bool
    attempt: int


def decide_requeue(outcome: Outcome, refused: bool, attempt: int) -> RequeueDecision:
    """Decide what follows a task's end. Every attempt counts, but one that somebody cancelled.

    A refused result is a fault; so is an agent's report that the task's process was lost.
    """
    if outcome == "success" and not refused:
        return RequeueDecision(requeue=False, attempt=attempt)
    if outcome == "cancelled" and not refused:
        return RequeueDecision(requeue=True, attempt=attempt)
    return RequeueDecision(requeue=attempt < ATTEMPTS_MAX, attempt=attempt + 1)


def decide_requeue_lost(attempt: int) -> RequeueDecision:
    """Decide what follows when a host no longer has its task, or was not heard of for too long."""
    return RequeueDecision(requeue=attempt < LOSSES_MAX, attempt=attempt + 1)


def count_failures(failing: int, outcome: Outcome, refused: bool, experiment_stopped: bool) -> int:
    """The host's failures since its last success.

    experiment_stopped  the experiment was stopped, so its faults do not count against the host
    """
    if outcome == "success" and not refused:
        return 0
    if experiment_stopped or (outcome not in FAULTS and not refused):
        return failing
    return failing + 1
