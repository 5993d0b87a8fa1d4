"""Numbers and nouns in messages for people."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number with its noun in the singular or plural: "1 task", "2 tasks", "1,500 bytes"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
