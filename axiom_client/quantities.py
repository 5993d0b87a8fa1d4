"""Sizes, shares and times as people write them: "4 GB", "75%", "10 min"."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([a-zA-Z%]*)\s*$")

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
    """Bytes; raises ValueError with what is wrong."""
    number, unit = _split(text)
    if unit.lower() not in _SIZES:
        raise ValueError(f"has the unknown unit {unit!r}; write a size such as '4 GB'")
    return int(number * _SIZES[unit.lower()])


def read_seconds(text: str | int | float) -> float:
    """Seconds; raises ValueError with what is wrong."""
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


def _split(text: str | int | float) -> tuple[float, str]:
    match = _NUMBER.match(str(text))
    if match is None:
        raise ValueError("is not a number with a unit")
    return float(match.group(1)), match.group(2)


def show_seconds(seconds: float) -> str:
    """A time for people: "8 s", "12 min", "3 h 05"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5970:
        return f"{seconds / 60:.0f} min"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60:02d}" if hours < 48 else f"{hours / 24:.0f} days"


def show_size(size_bytes: float) -> str:
    """A size for people: "850 MB", "4.0 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 999.5:
            return f"{size_bytes:.0f} {unit}" if unit != "GB" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
