"""Names of accounts that a reader could mistake for one another. Pure.

Two names look the same when they are equal after invisible characters are removed, compatibility
forms are folded (NFKC), and letters of the same shape are replaced by one of them. This follows the
"skeletons" of Unicode Technical Standard 39. Only letters of the alphabets that share shapes with
Latin are listed; names that mix other alphabets with Latin are refused.
"""

from __future__ import annotations

import itertools
import re
import unicodedata

NAME_CHARACTERS_MAX = 100  # of an account's or a team's name, as in EnrolRequest.user

#: Alphabets that one language writes together, by the first word of their letters' names: the last
#: two are those of Japanese marks for a long vowel and a repeated character.
WRITTEN_TOGETHER = frozenset({
    "LATIN", "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "KATAKANA-HIRAGANA",
    "IDEOGRAPHIC",
})  # fmt: skip

#: Invisible characters that are not of category Cf: fillers, joiners and variation selectors.
_FILLERS = (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0)
_SELECTORS = (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
_WITHOUT_SHAPE = frozenset(map(chr, (*_FILLERS, *_SELECTORS)))
#: The planes of Unicode that have characters of category Cf: 0, 1 and 14. Searching all is slow.
_SEARCHED = (range(0x20000), range(0xE0000, 0xF0000))

#: Every invisible character.
INVISIBLE = "".join(
    character
    for character in map(chr, itertools.chain(*_SEARCHED))
    if character in _WITHOUT_SHAPE or unicodedata.category(character) == "Cf"
)

#: Pairs of characters of the same shape: each is replaced by the second of its pair.
_SHAPES = """
аa АA ВB сc СC ԁd еe ЕE һh НH іi Іl ӏl Ӏl јj ЈJ КK МM оo ОO рp РP ԛq ѕs ЅS ТT ԝw хx ХX уy ҮY УY
үy ѵv ѴV ΑA ΒB ΕE ΖZ ΗH Ιl ΚK ΜM ΝN ΟO ΡP ΤT ΥY ΧX αa νv ιi οo ρp τt υu ϲc ϳj
ցg հh ոn սu օo ՍU ՕO ՏS ԼL ıi ɩi ɑa ɡg Il 1l |l ǀl 0O
""".split()  # first Cyrillic, then Greek, then Armenian and Latin itself
LOOKS_LIKE = "".join(pair[0] for pair in _SHAPES)
STANDS_FOR = "".join(pair[1] for pair in _SHAPES)


#: Names that the project itself shows for deleted and hidden accounts.
RESERVED = re.compile(r"deleted-.*|\(.*\)", re.IGNORECASE)


def refusal(name: str) -> str:
    """Why an account cannot have this name; empty when it can."""
    folded = unicodedata.normalize("NFKC", name)
    if all(c in INVISIBLE or c.isspace() for c in folded):
        return "it has no visible character"
    if RESERVED.fullmatch("".join(c for c in folded if c not in INVISIBLE)):
        return "it is reserved for accounts that are deleted or hidden"
    alphabets = {unicodedata.name(c, "?").split()[0] for c in folded if c.isalpha()}
    if len(alphabets) > 1 and not alphabets <= WRITTEN_TOGETHER:
        return f"it mixes alphabets ({', '.join(sorted(alphabets)).lower()})"
    return ""


def team_of(name: str) -> str:
    """The team that a name shows in square brackets before or after it, or ""."""
    found = re.fullmatch(r"\[([^\[\]]+)\]\s*\S.*|\S.*?\s*\[([^\[\]]+)\]", name)
    return (found[1] or found[2]).strip() if found else ""
