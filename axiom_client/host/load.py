"""How many cores are used by programs other than the agent and its tasks."""

from __future__ import annotations

import os
import time

import psutil


class LoadProbe:
    """Measures the time between two calls; the first call measures since the agent's start."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._busy = _busy_seconds()
        self._own = _own_seconds()

    def other_cores(self) -> float:
        """Cores used by other programs since the last call, on average."""
        at, busy, own = time.monotonic(), _busy_seconds(), _own_seconds()
        passed = at - self._at
        others = (busy - self._busy) - max(0.0, own - self._own)
        self._at, self._busy, self._own = at, busy, own
        return max(0.0, others / passed) if passed > 0 else 0.0


def _busy_seconds() -> float:
    """CPU seconds used by all programs since the host started, summed over the cores."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted in user too
    return float(sum(times) - idle - guest)


def _own_seconds() -> float:
    """CPU seconds of this agent and of all processes that it started, ended ones included."""
    mine = os.times()
    total = mine.user + mine.system + mine.children_user + mine.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.Error:
            continue  # it has ended; its time is included in that of our children now
        total += used.user + used.system
        total += getattr(used, "children_user", 0.0) + getattr(used, "children_system", 0.0)
    return total
