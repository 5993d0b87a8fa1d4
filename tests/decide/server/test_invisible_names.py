"""The searched planes of Unicode contain all invisible characters."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from axiom_server.decide.names import INVISIBLE, refusal


def test_no_plane_with_such_characters_is_left_out() -> None:
    whole = {c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) == "Cf"}
    assert whole <= set(INVISIBLE)


def test_fillers_and_selectors_are_among_them() -> None:
    assert {"\u3164", "\ufe0f", "\U000e0100"} <= set(INVISIBLE)


@pytest.mark.parametrize("name", ["\u200b", "  \u200b ", "\u3164", " "])
def test_a_name_of_spaces_and_invisible_characters_is_refused(name: str) -> None:
    assert refusal(name) == "it has no visible character"
