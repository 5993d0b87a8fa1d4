"""A small study on one machine: real runs in the sandbox, the server's verdict rule."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from axiom_client.cli.try_seeds import read_seeds, try_seeds
from axiom_client.errors import TrialFailed
from axiom_protocol.manifest import read_manifest
from axiom_protocol.verdicts.findings import judge
from axiom_protocol.verdicts.samples import Sample
from tests.support.programs import FIXTURES

WALK = FIXTURES / "experiments" / "short_walk.py"


def run(path: Path, seeds: str, capsys: pytest.CaptureFixture[str], *, as_json: bool) -> str:
    try_seeds(path, seeds=read_seeds(seeds), given=[], budget_seconds=1.0, as_json=as_json)
    return capsys.readouterr().out


def test_the_table_names_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(WALK, "1..5", capsys, as_json=False)
    assert "short_walk@1.0.0: 5 runs, 0 failed, 0 not valid" in shown
    assert "diffusive" in shown
    assert "5 of 5" in shown


def test_it_is_the_servers_rule(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(WALK, "1..6", capsys, as_json=True))["findings"][0]
    manifest = read_manifest(WALK.read_text())
    assert found["seeds"] == 6
    samples = [
        Sample(
            task_id=seed, seed=seed, host_id=0, parameters=manifest.resolve({}),
            result={"valid": 1, "configs_done": 3, "exponent": found["estimate"]},
        )
        for seed in range(1, 7)
    ]  # fmt: skip
    same_mean = judge(manifest, manifest.findings[0], samples)
    assert found["estimate"] == pytest.approx(same_mean.estimate)
    assert found.keys() == msgspec.to_builtins(same_mean).keys()


def test_a_seed_that_fails_counts_against_the_claim(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "walk.py"
    text = WALK.read_text()
    broken.write_text(text.replace("def run(task):", "def run(task):\n    assert task.seed != 3"))
    found = json.loads(run(broken, "1..6", capsys, as_json=True))["findings"][0]
    assert (found["seeds"], found["missing"]) == (5, {"failed": 1})


@pytest.mark.parametrize("text", ["", "x", "5..1", "1..5000", "1.5"])
def test_mistakes_in_seeds_are_named(text: str) -> None:
    with pytest.raises(TrialFailed, match="--seeds"):
        read_seeds(text)


def test_lists_and_ranges() -> None:
    assert read_seeds("1..3,7,2") == [1, 2, 3, 7]
