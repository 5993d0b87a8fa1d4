"""The agent's errors: each is in the tree of errors.py and documented, with its own exit code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from axiom_client import errors

DOCUMENT = Path(__file__).parents[2] / "docs" / "exit-codes.md"


def every(kind: type[errors.AxiomError] = errors.AxiomError) -> Iterator[type[errors.AxiomError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from every(below)


def test_every_error_is_in_the_documented_tree() -> None:
    assert errors.__doc__ is not None
    for kind in every():
        assert kind.__name__ in errors.__doc__


def test_every_exit_code_is_documented_in_its_own_words() -> None:
    section = DOCUMENT.read_text().split("## axiom-client")[1].split("\n## ")[0]
    for kind in every():
        assert f"| {kind.exit_code} | {kind.meaning} |" in section


def test_different_meanings_have_different_codes() -> None:
    meanings: dict[int, set[str]] = {}
    for kind in every():
        meanings.setdefault(kind.exit_code, set()).add(kind.meaning)
    assert all(len(found) == 1 for found in meanings.values())
