"""Parses sizes, shares and times as people write them: "4 GB", "75%", "10 min", "22:00-07:00"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from axiom_client.decide.schedule import DAY_MINUTES, DAYS, Span

_NUMBER = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([a-zA-Z%]*)\s*$")

DIGITS_MAX = 30  # of a quantity: far fewer than make a float infinite

_SIZES = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip

_TIMES = {
    "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "": 1.0,
    "min": 60.0, "m": 60.0, "minute": 60.0, "minutes": 60.0,
    "h": 3600.0, "hour": 3600.0, "hours": 3600.0,
    "d": 86400.0, "day": 86400.0, "days": 86400.0,
}  # fmt: skip


def read_size(text: str | int) -> int:
    """A size in bytes; raises ValueError with what is wrong."""
    number, unit = _split(text)
    if unit.lower() not in _SIZES:
        raise ValueError(f"has the unknown unit {unit!r}; write a size such as '4 GB'")
    return int(number * _SIZES[unit.lower()])


def read_seconds(text: str | int | float) -> float:
    """A duration in seconds; raises ValueError with what is wrong."""
    number, unit = _split(text)
    if unit.lower() not in _TIMES:
        raise ValueError(f"has the unknown unit {unit!r}; write a time such as '10 min'")
    return number * _TIMES[unit.lower()]


def read_share(text: str | int | float) -> float:
    """A share from 0 to 1, written "75%" or 0.75; raises ValueError with what is wrong."""
    number, unit = _split(text)
    if unit not in ("", "%"):
        raise ValueError(f"has the unknown unit {unit!r}; write a share such as '75%'")
    share = number / 100 if unit == "%" else number
    if not 0 <= share <= 1:
        raise ValueError("is not a share between 0% and 100%")
    return share


def read_size_or_share(text: str | int | float) -> float:
    """A size in bytes (1 or more), or a share below 1; raises ValueError with what is wrong."""
    number, unit = _split(text)
    if unit == "%" or (unit == "" and 0 < number < 1):
        share = read_share(text)
        if share == 1:
            raise ValueError(
                "leaves nothing for tasks; write a size such as '1 GB' or a share such as '5%'"
            )
        return share
    return float(read_size(str(text)))


def read_temperature(text: str | int | float) -> float:
    """Degrees Celsius, written 80 or "80 C"; 0: no limit. Raises ValueError with what is wrong."""
    number, unit = _split(str(text).replace("°", " "))
    if unit.lower() not in ("", "c", "celsius"):
        raise ValueError(f"has the unknown unit {unit!r}; write degrees Celsius such as '80 C'")
    if number > 150:
        raise ValueError("is above 150, and so not a processor's temperature in degrees Celsius")
    return number


def read_names(text: str | Sequence[str]) -> list[str]:
    """Names separated by commas, or a list of names; raises ValueError with what is wrong."""
    words = text.split(",") if isinstance(text, str) else text
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError("must be names separated by commas")
    return [word.strip() for word in words if word.strip()]


# --- the hours of the week ------------------------------------------------------------------------

_HOURS = re.compile(r"^(\d{1,2})(?::(\d{2}))?(am|pm)?-(\d{1,2})(?::(\d{2}))?(am|pm)?$")
_DAY_NAMES = {
    **{name.lower(): i for i, name in enumerate(DAYS)},
    **{
        name: i
        for i, name in enumerate(
            ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
        )
    },
}
_DAY_GROUPS = {"daily": range(7), "weekdays": range(5), "weekends": range(5, 7)}


def read_schedule(text: str | Sequence[str]) -> list[Span]:
    """The spans of "22:00-07:00" or "mon-fri 22:00-07:00; sat, sun"; raises ValueError.

    Hours without days hold every day; days without hours are whole days. Hours across midnight
    belong to the day on which they begin.
    """
    if not isinstance(text, str):
        text = "; ".join(read_names(text))
    whole = re.sub(r"\s*(?:[-\u2013\u2014]|\bto\b)\s*", "-", text.lower())
    whole = re.sub(r"(\d)\s+(am|pm)\b", r"\1\2", whole)
    spans: set[Span] = set()
    for group in whole.split(";"):
        spans.update(_read_group(re.split(r"[,\s]+", group.strip()) if group.strip() else []))
    return sorted(spans)


def _read_group(words: list[str]) -> list[Span]:
    """The spans of days followed by their hours, any number of times."""
    spans: list[Span] = []
    days: list[int] = []
    hours_seen = True  # no days are waiting for their hours
    for word in filter(None, words):
        if (named := _read_days(word)) is not None:
            days = named if hours_seen else days + named
            hours_seen = False
        else:
            start, end = _read_hours(word)
            spans += [
                (day * DAY_MINUTES + start, day * DAY_MINUTES + end) for day in days or range(7)
            ]
            hours_seen = True
    if not hours_seen:
        spans += [(day * DAY_MINUTES, (day + 1) * DAY_MINUTES) for day in days]
    return spans


def _read_days(word: str) -> list[int] | None:
    if word in _DAY_GROUPS:
        return list(_DAY_GROUPS[word])
    first, dash, last = word.partition("-")
    if first not in _DAY_NAMES or (dash and last not in _DAY_NAMES):
        return None
    low, high = _DAY_NAMES[first], _DAY_NAMES[last or first]
    return [(low + i) % 7 for i in range((high - low) % 7 + 1)]


def _read_hours(word: str) -> tuple[int, int]:
    match = _HOURS.match(word)
    if match is None:
        raise ValueError(
            f"has {word!r}, which is neither days nor hours; write hours such as '22:00-07:00' "
            "or 'mon-fri 22:00-07:00; sat, sun'"
        )
    start, end = _read_clock(*match.groups()[:3]), _read_clock(*match.groups()[3:])
    if start in (end, DAY_MINUTES):
        raise ValueError(f"has {word!r}, which is no time at all; a whole day is '00:00-24:00'")
    return start, end if end > start else end + DAY_MINUTES


def _read_clock(hour: str, minute: str | None, half: str | None) -> int:
    hours, minutes = int(hour), int(minute or 0)
    if half and not 1 <= hours <= 12:
        raise ValueError(f"has the hour {hour}{half}, which does not exist")
    if half:
        hours = hours % 12 + (12 if half == "pm" else 0)
    if hours * 60 + minutes > DAY_MINUTES or minutes > 59:
        raise ValueError(f"has the time {hour}:{minute or '00'}, which does not exist")
    return hours * 60 + minutes


def _split(text: str | int | float) -> tuple[float, str]:
    match = _NUMBER.match(str(text))
    if match is None or len(match.group(1)) > DIGITS_MAX:
        raise ValueError("is not a number with a unit")
    return float(match.group(1)), match.group(2)


def show_seconds(seconds: float) -> str:
    """A duration as people write it: "8 s", "12 min", "3 h 05"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5970:
        return f"{seconds / 60:.0f} min"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60:02d}" if hours < 48 else f"{hours / 24:.0f} days"


def show_size(size_bytes: float) -> str:
    """A size as people write it: "850 MB", "4.0 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 999.5:
            return f"{size_bytes:.0f} {unit}" if unit != "GB" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
