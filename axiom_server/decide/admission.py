"""Admission of syncs: which request may wait for its answer, and when a refused one comes back.

Past saturation a queue grows without limit, until hosts give up and the server computes answers
that nobody reads. So only as many requests wait as can be answered within WAIT_SECONDS. Each one
beyond them gets a place in a schedule of returns, spaced by the rate at which the server answers:
the refused come back one by one, in the order in which they were refused, and find room.
"""

from __future__ import annotations

from dataclasses import dataclass

WAIT_SECONDS = 5.0  # an agent waits 60 s for its answer, but a proxy in front may wait for less
WAITING_MIN = 200  # always allowed: a pause of the database is no overload
RETURN_SECONDS_MAX = 900.0  # a lease lasts hours, so that nothing is lost by then
#: Of the rate, for those who return; the rest is for hosts that come for the first time.
RETURNING_SHARE = 0.8
WEIGHT = 0.1  # of the newest batch in the smoothed rate; the first ones count in equal parts
PER_SECOND_START, PER_SECOND_MIN = 1_000.0, 1.0


@dataclass
class Admission:
    """The state of one serving process. Times are seconds of a monotonic clock.

    per_second   syncs that were answered in a second while others waited, smoothed
    """

    per_second: float = PER_SECOND_START
    _next_return: float = 0.0
    _batches: int = 0

    def record(self, answered: int, seconds: float) -> None:
        """Learn from a time in which requests were waiting: how many were answered in it."""
        if answered and seconds > 0:
            newest = answered / seconds
            self._batches += 1
            self.per_second += max(WEIGHT, 1 / self._batches) * (newest - self.per_second)
            self.per_second = max(self.per_second, PER_SECOND_MIN)

    def wait(self, waiting: int, now: float) -> float:
        """0.0 if one more request may wait with ``waiting`` others, else when to come back."""
        if waiting < max(WAITING_MIN, self.per_second * WAIT_SECONDS):
            return 0.0
        first = max(self._next_return, now + WAIT_SECONDS)
        self._next_return = min(
            first + 1.0 / (self.per_second * RETURNING_SHARE), now + RETURN_SECONDS_MAX
        )
        return first - now
