"""The hours in which tasks may run, as spans of the week in local time.

A span is (start, end) in minutes since Monday 00:00, with 0 <= start < 10,080 and start < end <=
start + 1,440; one that begins on Sunday evening ends beyond the week. No spans mean always.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, timedelta

Span = tuple[int, int]

DAY_SECONDS = 86_400.0
DAY_MINUTES = 24 * 60
WEEK_MINUTES = 7 * DAY_MINUTES
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_EPOCH_MINUTES = 3 * DAY_MINUTES  # 1970-01-01 was a Thursday
_LAST_SECOND = 253_402_300_799.0  # of the year 9999, the last that ``date`` knows


def is_open(spans: Sequence[Span], local_seconds: float) -> bool:
    """Whether tasks may run. ``local_seconds``: since 1970, local time."""
    return not spans or any(
        start <= minute < end
        for start, end in spans
        for minute in (_minute(local_seconds), _minute(local_seconds) + WEEK_MINUTES)
    )


def next_change(spans: Sequence[Span], local_seconds: float) -> float | None:
    """When the answer of ``is_open`` changes next, local seconds; None: never."""
    now = is_open(spans, local_seconds)
    midnight = local_seconds - _minute(local_seconds) * 60  # of the Monday of this week
    edges = {midnight + 60.0 * (edge + week) for span in spans for edge in span
             for week in (-WEEK_MINUTES, 0, WEEK_MINUTES)}  # fmt: skip
    later = sorted(edge for edge in edges if edge > local_seconds)
    return next((edge for edge in later if is_open(spans, edge) != now), None)


def clock(local_seconds: float) -> str:
    """The time of day, such as "14:02"."""
    minute = math.floor(local_seconds / 60) % DAY_MINUTES
    return f"{minute // 60:02d}:{minute % 60:02d}"


def moment(local_seconds: float, now: float) -> str:
    """A time of day for people, with the weekday where it is on another day than ``now``."""
    word = clock(local_seconds)
    if day_number(local_seconds) == day_number(now):
        return word
    return f"{DAYS[int(_minute(local_seconds)) // DAY_MINUTES]} {word}"


def day(local_seconds: float) -> str:
    """The date of a local time, such as "2026-11-27"; the nearest from 1970 to 9999."""
    seconds = min(max(0.0, local_seconds), _LAST_SECOND)
    return (date(1970, 1, 1) + timedelta(seconds=seconds)).isoformat()


def day_number(local_seconds: float) -> int:
    """Days since 1970-01-01."""
    return math.floor(local_seconds / DAY_SECONDS)


def _minute(local_seconds: float) -> float:
    """Minutes since Monday 00:00."""
    return (local_seconds / 60 + _EPOCH_MINUTES) % WEEK_MINUTES
