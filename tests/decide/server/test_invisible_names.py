"""The searched planes of Unicode contain all invisible characters."""

from __future__ import annotations

import sys
import unicodedata

from axiom_server.decide.names import INVISIBLE


def test_no_plane_with_such_characters_is_left_out() -> None:
    whole = {c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) == "Cf"}
    assert whole <= set(INVISIBLE)


def test_fillers_and_selectors_are_among_them() -> None:
    assert {"\u3164", "\ufe0f", "\U000e0100"} <= set(INVISIBLE)
