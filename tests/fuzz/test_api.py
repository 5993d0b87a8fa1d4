"""Replay every request that was a finding, and run the fuzzer shortly, against a real server."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz import api

INPUTS = 1000  # make fuzz makes 100,000


def test_kept_requests_do_no_harm_and_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    with api.served() as project:
        assert api.replay(project) > 0
        assert api.run(project, INPUTS, tmp_path, said.append) == 0, said
        assert project.tracebacks() == ""
