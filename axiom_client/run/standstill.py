"""Finds the standstills of tasks, so that they do not count as their elapsed time.

When everything is stopped (a frozen container, a suspended host, a debugger, SIGSTOP), no process
is notified. A standstill is detected afterwards: a timer of one second was late, and the tasks used
no CPU time meanwhile. A task that went on while only the agent was stopped has used CPU time, and
its time counts.
"""

from __future__ import annotations

from msgspec import Struct

TICK_SECONDS = 1.0  # between samples while tasks run
GAP_SECONDS = 3.0  # between samples; a longer gap is no delay of a busy host
RATE_MIN = 0.05  # CPU seconds a second; from a task that uses less, nothing can be inferred


class Sample(Struct, frozen=True):
    """A task's process at the monotonic time ``at``: CPU seconds so far, whether it is stopped.

    core   that it last ran on; None: not known
    """

    at: float
    cpu_seconds: float = 0.0
    stopped: bool = False
    core: int | None = None


def standstill_seconds(elapsed_seconds: float, before: Sample, after: Sample) -> float:
    """Seconds between two samples in which the task did not run.

    The CPU time that it used between them, divided by its usual rate, is how long it did run.

    elapsed_seconds   elapsed time of the task until ``before``
    """
    gap = after.at - before.at
    if before.stopped and after.stopped:
        return gap
    if gap < GAP_SECONDS:
        return 0.0
    rate = before.cpu_seconds / elapsed_seconds if elapsed_seconds >= TICK_SECONDS else 1.0
    ran = (after.cpu_seconds - before.cpu_seconds) / max(rate, RATE_MIN)
    return max(0.0, gap - max(0.0, ran))
