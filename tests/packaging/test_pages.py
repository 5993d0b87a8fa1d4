"""Commands, options and files named in the pages exist; tables and site are up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer.main

from axiom_client.cli.app import app as client
from axiom_server.cli.app import app as server
from tests.packaging.pages import PAGES, REASONS, ROOT, blocks, shown_commands

PROGRAMS = {
    "axiom-client": typer.main.get_command(client),
    "axiom-server": typer.main.get_command(server),
}


def options_of(command: Any) -> set[str]:
    return {"--help"}.union(*([*p.opts, *p.secondary_opts] for p in command.params))


def unknown_in(words: list[str]) -> str:
    """The parts of a shown command that the program does not have; empty if it has all."""
    command: Any = PROGRAMS.get(words[0])
    allowed = options_of(command)
    for word in words[1:]:
        if word in ("...", "COMMAND") or word.startswith(("|", ">", "<", "&", ";")):
            break
        if word.startswith("-"):
            if word.partition("=")[0] not in allowed:
                return word
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return word
            command = command.commands[word]
            allowed |= options_of(command)
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_shown_exists(page: Path) -> None:
    wrong = [(" ".join(words), bad) for words in shown_commands(page) if (bad := unknown_in(words))]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_named_exists(page: Path) -> None:
    for name in re.findall(
        r"`((?:packaging|tests|axiom_\w+|experiments)/[\w./-]+)`", page.read_text()
    ):
        assert (ROOT / name).exists(), name


def test_blocks_that_are_not_run_are_few_and_say_why() -> None:
    skipped = [b for page in PAGES for b in blocks(page) if b.skipped]
    for block in skipped:
        assert block.skipped.startswith(REASONS), f"{block.page.name}:{block.line}"
    print(Counter(block.skipped.partition(" (")[0] for block in skipped))
    assert len(skipped) <= 10


def test_tables_of_the_code_are_current() -> None:
    line = [sys.executable, str(ROOT / "packaging/doc_tables.py"), "--check"]
    done = subprocess.run(
        line, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed (extra dev)")
    line = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "-d",
        str(tmp_path / "s"),
    ]
    environment = {"NO_MKDOCS_2_WARNING": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "s" / "volunteer" / "index.html").exists()
