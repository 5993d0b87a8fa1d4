"""Fuzz with inputs guided by coverage: libFuzzer, by atheris, keeps inputs that reach new code.

Run as its own process, because libFuzzer ends the process that it runs in:
``python -m tests.fuzz.coverage TARGET INPUTS FOLDER``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["axiom_protocol", "axiom_client.decide", "tomllib"]):
    from tests.fuzz.targets import CORPUS, TARGETS

RSS_MEGABYTES_MAX = 1024  # an input that needs more is a finding
INPUT_SECONDS_MAX = 10  # and so is one that takes longer


def main() -> None:
    """Fuzz until the inputs are used up; a finding is written to FOLDER and ends it with 77."""
    name, inputs, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    check = TARGETS[name]
    found = folder / f"{name}-corpus"
    found.mkdir(parents=True, exist_ok=True)
    arguments = [
        sys.argv[0],
        f"-runs={inputs}",
        f"-rss_limit_mb={RSS_MEGABYTES_MAX}",
        f"-timeout={INPUT_SECONDS_MAX}",
        "-max_len=8192",
        f"-artifact_prefix={folder}/{name}-",
        "-print_final_stats=1",
        str(found),
        str(CORPUS / name),
    ]
    atheris.Setup(arguments, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
