"""Finds the time in which tasks stood still, so that it does not count as their elapsed time.

When everything is stopped (a frozen container, a suspended host, a debugger, SIGSTOP), nobody is
told. It is seen afterwards: a clock that should tick each second did not, and the tasks made no use
of their processors meanwhile. A task that went on working while only the agent stood still has used
them, and its time counts.
"""

from __future__ import annotations

import os

from msgspec import Struct

TICK_SECONDS = 1.0  # between looks while tasks run
GAP_SECONDS = 3.0  # without a look: more than a busy host delays a timer
RATE_MIN = 0.05  # processor seconds a second; a task that uses less tells nothing about time
STOPPED = frozenset({"T", "t"})  # by a signal, by a debugger: proc_pid_stat(5)


class Sample(Struct, frozen=True):
    """A task's process at ``at``: processor seconds so far, and whether it is stopped."""

    at: float
    cpu_seconds: float = 0.0
    stopped: bool = False


def sample(pid: int, at: float) -> Sample:
    """Read /proc; a process that is gone, or another system, gives a bare time."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            words = file.read().rpartition(")")[2].split()
    except OSError:
        return Sample(at)
    ticks = int(words[11]) + int(words[12])
    return Sample(at, ticks / os.sysconf("SC_CLK_TCK"), words[0] in STOPPED)


def stood_still(lived_seconds: float, before: Sample, after: Sample) -> float:
    """Seconds between two samples in which the task did nothing.

    What it used of processors in them, at its usual rate, is how long it went on.

    lived_seconds   elapsed time of the task until ``before``
    """
    gap = after.at - before.at
    if before.stopped and after.stopped:
        return gap
    if gap < GAP_SECONDS:
        return 0.0
    rate = before.cpu_seconds / lived_seconds if lived_seconds >= TICK_SECONDS else 1.0
    worked = (after.cpu_seconds - before.cpu_seconds) / max(rate, RATE_MIN)
    return max(0.0, gap - max(0.0, worked))
