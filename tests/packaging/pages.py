"""Read the commands, files and skipped blocks in the pages of docs/ and the README."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: Allowed reasons for not running a block.
REASONS = ("a package manager", "root", "another machine", "the tests themselves")

_BLOCK = re.compile(
    r"(?ms)^(?:<!-- (?P<how>not run|before): (?P<text>[^\n]*?) -->\n)?"
    r"^```(?P<language>sh|python)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$"
)
_INLINE = re.compile(r"(?s)(?<!`)`(axiom-(?:client|server) [^`]+)`(?!`)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block. ``skipped`` says why it is not run; ``before`` is run first, unseen."""

    page: Path
    line: int
    language: str
    title: str
    body: str
    skipped: str
    before: str

    @property
    def commands(self) -> list[str]:
        """One command line each, continuations joined, comments gone."""
        joined = self.body.replace("\\\n", " ")
        return [line for line in joined.splitlines() if line.strip() and line.lstrip()[0] != "#"]


def blocks(page: Path) -> Iterator[Block]:
    """The shell blocks and named Python files of a page, in order."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        how, said = found["how"], found["text"] or ""
        yield Block(
            page=page,
            line=text.count("\n", 0, found.start()) + 1,
            language=found["language"],
            title=found["title"] or "",
            body=found["body"],
            skipped=said if how == "not run" else "",
            before=said if how == "before" else "",
        )


def inline_commands(page: Path) -> list[str]:
    """The axiom commands in a page's running text."""
    return [" ".join(found.split()) for found in _INLINE.findall(page.read_text())]


def shown_commands(page: Path) -> list[list[str]]:
    """Every axiom command on a page, in blocks and in running text, as words."""
    lines = [c for block in blocks(page) if block.language == "sh" for c in block.commands]
    lines += inline_commands(page)
    split = [shlex.split(line, comments=True) for line in lines]
    return [cut for words in split if (cut := _from_program(words))]


def _from_program(words: list[str]) -> list[str]:
    """Without sudo, variables and the folder before the program; empty when it is another's."""
    words = list(words)
    while words and (words[0] in ("sudo", "env", "-u") or "=" in words[0]):
        del words[: 2 if words[0] == "-u" else 1]
    if not words or Path(words[0]).name not in ("axiom-client", "axiom-server"):
        return []
    return [Path(words[0]).name, *words[1:]]
