"""Decide whether a workunit is queued again after its task ended."""

from __future__ import annotations

from dataclasses import dataclass

from axiom_protocol.messages import Outcome

#: Attempts at one workunit after which a further fault ends it: the workunit itself is at fault.
ATTEMPTS_MAX = 6
#: Attempts after which a further loss ends it. Hosts are switched off and networks fail, so a loss
#: says little; but a workunit that kills its process, or the agent, shows only as losses.
LOSSES_MAX = 12

#: Outcomes that indicate a fault of the experiment or the host.
FAULTS: frozenset[str] = frozenset({"failed", "timed_out", "over_memory", "over_disk"})


@dataclass(frozen=True, kw_only=True)
class RequeueDecision:
    """Whether the workunit is queued again, and as which attempt."""

    requeue: bool
    attempt: int


def decide_requeue(outcome: Outcome, refused: bool, attempt: int) -> RequeueDecision:
    """Decide what follows a task's end. Every attempt counts, except one that was cancelled.

    A refused result is a fault; so is a report that the task's process was lost.
    """
    if outcome == "success" and not refused:
        return RequeueDecision(requeue=False, attempt=attempt)
    if outcome == "cancelled" and not refused:
        return RequeueDecision(requeue=True, attempt=attempt)
    return RequeueDecision(requeue=attempt < ATTEMPTS_MAX, attempt=attempt + 1)


def decide_requeue_lost(attempt: int) -> RequeueDecision:
    """Decide what follows when a host no longer has its task, or was silent for too long."""
    return RequeueDecision(requeue=attempt < LOSSES_MAX, attempt=attempt + 1)


def count_failures(failing: int, outcome: Outcome, refused: bool, offered: bool) -> int:
    """The host's failures since its last success, after a task with this outcome.

    offered   whether the version still is; faults in one that was stopped or retired do not count
    """
    if outcome == "success" and not refused:
        return 0
    if not offered or (outcome not in FAULTS and not refused):
        return failing
    return failing + 1
