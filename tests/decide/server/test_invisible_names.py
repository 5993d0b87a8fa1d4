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


@pytest.mark.parametrize(
    "name", ["deleted-17", "DELETED-x", "(hidden)", "de\u200bleted-1", "(\ufeff)"]
)
def test_names_that_the_project_shows_itself_are_reserved(name: str) -> None:
    assert refusal(name) == "it is reserved for accounts that are deleted or hidden"


@pytest.mark.parametrize(
    "name", ["Zoë", "deleted", "x (home)", "\u0417\u043e\u044f 2", "山田カナ", "Seoul 서울", "42"]
)
def test_names_of_one_alphabet_or_of_those_that_are_written_together(name: str) -> None:
    assert refusal(name) == ""


def test_names_that_mix_other_alphabets_are_refused() -> None:
    assert refusal("Z\u043e\u044f") == "it mixes alphabets (cyrillic, latin)"
    assert refusal("\u03a9\u044f") == "it mixes alphabets (cyrillic, greek)"
    assert refusal("ab\u0433\u0434") == "it mixes alphabets (cyrillic, latin)"
