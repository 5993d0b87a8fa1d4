"""What both programs answer to --version, -h and --help."""

from __future__ import annotations

import subprocess
import sys

import pytest

from axiom_protocol import __version__

PROGRAMS = {"axiom-client": "axiom_client.cli.app", "axiom-server": "axiom_server.cli.app"}


def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; from {PROGRAMS[program]} import main; sys.argv[0] = {program!r}; main()"
    line = [sys.executable, "-P", "-c", code, *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("program", PROGRAMS)
def test_version(program: str) -> None:
    done = run(program, "--version")
    assert (done.returncode, done.stdout) == (0, f"{program} {__version__}\n")


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("words", [[], ["status"]])
def test_help_in_one_style_by_either_option(program: str, words: list[str]) -> None:
    short, long = run(program, *words, "-h"), run(program, *words, "--help")
    assert short.returncode == long.returncode == 0
    assert short.stdout == long.stdout
    assert short.stdout.startswith(f"Usage: {program}")
    assert "\nOptions:\n" in short.stdout
    assert "-h, --help" in short.stdout
    assert not set("╭│╰─") & set(short.stdout)
