"""The syncs that wait in this process: counted, and refused beyond what is answered soon.

A refusal costs a fraction of an answer, and says when to come back (see decide/admission).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from axiom_server.decide.admission import Admission
from axiom_server.web.refused import Refused

WINDOW_SECONDS = 0.5  # over which the rate of answers is measured
BUSY_WAITING = 48  # with fewer waiting, the rate is what hosts send and not what the server can


class SyncQueue:
    """One per serving process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._admission = Admission()
        self._waiting = 0
        self._began, self._answers, self._least = clock(), 0, 0

    def admit(self) -> None:
        """Raises Refused: 503, with the time at which to come back."""
        wait = self._admission.wait(self._waiting, self._clock())
        if wait:
            raise Refused(
                503, "The server is busy", f"Try again after {wait:.0f} seconds.", wait
            )  # fmt: skip

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The request waits for the database. Time for which a body is awaited does not count."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            self._least = min(self._least, self._waiting)

    def count_answer(self) -> None:
        """Count an answer, for the rate by which returns are spaced."""
        self._answers += 1
        elapsed = self._clock() - self._began
        if elapsed >= WINDOW_SECONDS:
            if self._least >= BUSY_WAITING:
                self._admission.record(self._answers, elapsed)
            self._begin_window()

    def _begin_window(self) -> None:
        self._began, self._answers, self._least = self._clock(), 0, self._waiting
