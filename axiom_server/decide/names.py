"""Names of accounts that a reader could take for one another. Pure.

Two names look the same when they are equal once what cannot be seen is removed, compatibility forms
are folded (NFKC) and letters of one shape are replaced by one of them, after the method of Unicode
Technical Standard 39 ("skeletons"). Only the letters of the alphabets that share shapes with Latin
are listed; other alphabets are told apart from Latin by not being mixed with it.
"""

from __future__ import annotations

import itertools
import re
import unicodedata

#: Letters that are written together in one language.
WRITTEN_TOGETHER = frozenset({"LATIN", "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO"})

#: Drawn as nothing although not of category Cf: fillers, joiners and selectors of variants.
_FILLERS = (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0)
_SELECTORS = (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
_WITHOUT_SHAPE = frozenset(map(chr, (*_FILLERS, *_SELECTORS)))
#: The planes of Unicode that have characters of category Cf: 0, 1 and 14. The others are large.
_SEARCHED = (range(0x20000), range(0xE0000, 0xF0000))

#: Every character that is drawn as nothing.
INVISIBLE = "".join(
    character
    for character in map(chr, itertools.chain(*_SEARCHED))
    if character in _WITHOUT_SHAPE or unicodedata.category(character) == "Cf"
)

#: Characters of one shape, each before the one that stands for it.
_SHAPES = """
аa АA ВB сc СC ԁd еe ЕE һh НH іi Іl ӏl Ӏl јj ЈJ КK МM оo ОO рp РP ԛq ѕs ЅS ТT ԝw хx ХX уy ҮY УY
үy ѵv ѴV ΑA ΒB ΕE ΖZ ΗH Ιl ΚK ΜM ΝN ΟO ΡP ΤT ΥY ΧX αa νv ιi οo ρp τt υu ϲc ϳj
ցg հh ոn սu օo ՍU ՕO ՏS ԼL ıi ɩi ɑa ɡg Il 1l |l ǀl 0O
""".split()  # first Cyrillic, then Greek, then Armenian and Latin itself
LOOKS_LIKE = "".join(pair[0] for pair in _SHAPES)
STANDS_FOR = "".join(pair[1] for pair in _SHAPES)


def refusal(name: str) -> str:
    """Why nobody can be called this; empty when somebody can."""
    folded = unicodedata.normalize("NFKC", name)
    if all(c in INVISIBLE or c.isspace() for c in folded):
        return "nothing of it can be seen"
    alphabets = {unicodedata.name(c, "?").split()[0] for c in folded if c.isalpha()}
    if len(alphabets) > 1 and not alphabets <= WRITTEN_TOGETHER:
        return f"it mixes alphabets ({', '.join(sorted(alphabets)).lower()})"
    return ""


def team_of(name: str) -> str:
    """The team that a name shows in square brackets before or after it, or ""."""
    found = re.fullmatch(r"\[([^\[\]]+)\]\s*\S.*|\S.*?\s*\[([^\[\]]+)\]", name)
    return (found[1] or found[2]).strip() if found else ""
