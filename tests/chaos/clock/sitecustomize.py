"""Change a program's time of day: ``time.time`` plus the number in the file $CHAOS_CLOCK.

Python imports a module of this name at its start, from PYTHONPATH. Monotonic time is not changed,
as when a real clock is set.
"""

from __future__ import annotations

import os
import time

_real = time.time
_file = os.environ.get("CHAOS_CLOCK", "")


def _stepped() -> float:
    try:
        with open(_file, encoding="ascii") as steps:
            return _real() + float(steps.read() or 0)
    except (OSError, ValueError):
        return _real()


if _file:
    time.time = _stepped
