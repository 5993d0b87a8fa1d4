"""Texts for people: untrusted texts cleaned before they are stored, logged or shown, and plurals.

A name may be in any script. It must not move the cursor, break a log line, change the writing
direction of what follows, or imitate another name with invisible characters.
"""

from __future__ import annotations

import unicodedata
from typing import TypeVar

import msgspec
from msgspec import Struct

_REMOVED_CATEGORIES = frozenset({"Cc", "Cf", "Cs"})  # control, format, surrogate
_JOINERS = "\u200c\u200d"  # of category Cf too, but needed for names in Persian or Hindi
T = TypeVar("T", bound=Struct)


def plain(text: str) -> str:
    """The text without control and format characters, except line feeds and tabs."""
    if text.isprintable():
        return text
    kept = _JOINERS + "\n\t"
    return "".join(
        c for c in text if c in kept or unicodedata.category(c) not in _REMOVED_CATEGORIES
    )


def one_line(text: str) -> str:
    """The text without control and format characters, on one line with single spaces."""
    return " ".join(plain(text).split())


def has_undecoded_bytes(text: str) -> bool:
    """Whether it holds bytes that were no UTF-8, as words and names of files may (PEP 383)."""
    return any("\udc80" <= character <= "\udcff" for character in text)


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun in the singular or plural: "1 task", "2 tasks", "1,500 bytes"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


def megabytes(size_bytes: float) -> str:
    """A size in memory or on a disk: "1,500 MB"; less than nothing is "0 MB"."""
    return f"{max(0.0, size_bytes) / 1e6:,.0f} MB"


def plain_message(message: T) -> T:
    """A message with ``one_line`` applied to all texts, except parameters (checked elsewhere)."""
    return msgspec.convert(_clean(msgspec.to_builtins(message)), type(message))


def _clean(value: object) -> object:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {k: v if k == "parameters" else _clean(v) for k, v in value.items()}
    return value
