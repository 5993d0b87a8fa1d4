"""Text that strangers wrote, made fit to be stored, logged and shown in a terminal.

A name may be in any script. It may not move the cursor, end a line of a log, change the direction
of what follows, or look like another's name by letters that cannot be seen.
"""

from __future__ import annotations

import unicodedata
from typing import TypeVar

import msgspec
from msgspec import Struct

_REMOVED_CATEGORIES = frozenset({"Cc", "Cf", "Cs"})  # control, format, surrogate
_JOINERS = "\u200c\u200d"  # they are of Cf too, and names in Persian or Hindi are written with them
T = TypeVar("T", bound=Struct)


def plain(text: str) -> str:
    """The text without control and format characters; line feeds and tabs stay."""
    if text.isprintable():
        return text
    kept = _JOINERS + "\n\t"
    return "".join(
        c for c in text if c in kept or unicodedata.category(c) not in _REMOVED_CATEGORIES
    )


def one_line(text: str) -> str:
    """The same on one line, with single spaces."""
    return " ".join(plain(text).split())


def plain_message(message: T) -> T:
    """A message with every text in it on one line, but for parameters, which signed ranges hold."""
    return msgspec.convert(_clean(msgspec.to_builtins(message)), type(message))


def _clean(value: object) -> object:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {k: v if k == "parameters" else _clean(v) for k, v in value.items()}
    return value
