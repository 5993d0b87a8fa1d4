"""Replay every input that was a finding, and run each fuzzer shortly."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import replay, structured
from tests.fuzz.structured import STRUCTURED
from tests.fuzz.targets import TARGETS

INPUTS = 300  # make fuzz runs 100,000


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_do_no_harm(name: str) -> None:
    assert replay(name) > 0


@pytest.mark.parametrize("name", TARGETS)
def test_fuzzers_find_nothing(name: str, tmp_path: Path) -> None:
    assert structured(name, TARGETS[name], STRUCTURED[name], INPUTS, tmp_path) == 0
