"""The kept runs: which changes need new runs, and that failures are reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.science import runs, twins
from tests.science.runs import RunFailed, RunSpec, key, make, run, source

SHORT = RunSpec(
    name="catapult_phase", seed=101, parameters={"widths": [16], "steps": 50}, budget_seconds=1e-9
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runs, "KEPT", tmp_path / "kept")
    return tmp_path / "kept"


def broken_by(text: str, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    """The short run with this text after its script."""
    monkeypatch.setitem(twins.BROKEN["catapult_phase"], "seed_ignored", text)
    return replace(SHORT, twin="seed_ignored")


def test_a_run_is_made_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    assert make([SHORT, SHORT], lines.append) == []
    assert len(lines) == len(list(folder.iterdir())) == 1
    monkeypatch.setattr(runs, "_in_child", None)
    first = run(SHORT)
    assert first.result["configs_done"] == 1
    assert first.cpu_seconds > 0
    assert first.peak_bytes > 10_000_000
    assert make([SHORT], lines.append) == []


def test_comments_and_claims_need_no_new_run_and_code_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key(broken_by("# a comment\n", monkeypatch)) == key(SHORT)
    assert key(broken_by("SPIKE = 4.0\n", monkeypatch)) != key(SHORT)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 102},
        {"budget_seconds": 1.0},
        {"parameters": {"widths": [16], "steps": 51}},
        {"kernel": "prescott"},
        {"how": "restored"},
        {"twin": "shuffled_labels"},
    ],
)
def test_the_key_covers_whatever_affects_the_numbers(other: dict[str, Any]) -> None:
    assert key(replace(SHORT, **other)) != key(SHORT)


def test_a_failed_run_reports_its_error_and_is_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = broken_by("raise RuntimeError('no such luck')\n", monkeypatch)
    with pytest.raises(RunFailed, match="no such luck"):
        run(spec)
    assert [type(failure) for failure in make([spec], lambda line: None)] == [RunFailed]
    assert not folder.exists()


@pytest.mark.parametrize("name", sorted(twins.BROKEN))
@pytest.mark.parametrize("kind", ["shuffled_labels", "another_test_set", "seed_ignored"])
def test_each_twin_replaces_a_function_that_its_experiment_has(name: str, kind: str) -> None:
    broken = source(RunSpec(name=name, seed=0, twin=kind))
    replaced = broken.rpartition("\ndef ")[2].partition("(")[0]
    assert broken.count(f"\ndef {replaced}(") == 2
