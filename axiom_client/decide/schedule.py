"""The hours in which tasks may run, as spans of the week in local time.

A span is (start, end) in minutes since Monday 00:00, with 0 <= start < 10,080 and start < end <=
start + 1,440; one that begins on Sunday evening ends beyond the week. No spans mean always.
"""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[int, int]

DAY_MINUTES = 24 * 60
WEEK_MINUTES = 7 * DAY_MINUTES
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_EPOCH_MINUTES = 3 * DAY_MINUTES  # 1970-01-01 was a Thursday


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
    minute = int(local_seconds // 60) % DAY_MINUTES
    return f"{minute // 60:02d}:{minute % 60:02d}"


def moment(local_seconds: float, now: float) -> str:
    """A time of day for people, with the weekday where it is on another day than ``now``."""
    word = clock(local_seconds)
    if local_seconds // 86_400 == now // 86_400:
        return word
    return f"{DAYS[int(_minute(local_seconds)) // DAY_MINUTES]} {word}"


def day(local_seconds: float) -> str:
    """The date of a local time, such as "2026-11-27" (Howard Hinnant's civil_from_days)."""
    z = int(local_seconds // 86_400) + 719_468
    era, of_era = divmod(z, 146_097)
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * of_year + 2) // 153  # months since March
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (month <= 2)
    return f"{year:04d}-{month:02d}-{of_year - (153 * shifted + 2) // 5 + 1:02d}"


def _minute(local_seconds: float) -> float:
    """Minutes since Monday 00:00."""
    return (local_seconds / 60 + _EPOCH_MINUTES) % WEEK_MINUTES
