"""rank_lottery's `run_cohort`, on torch's CPU ("cpu:0") the code that runs on GPUs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from axiom_client.run.task import Task
from axiom_protocol.agreement import disagreements
from axiom_protocol.result import Result, gate
from tests.science.harness import experiment, run_once
from tests.science.promises import Interrupted, parts

#: Not imported here: every worker that runs tests collects this file.
pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")

NAME = "rank_lottery"
MANIFEST = experiment(NAME)[0]
PARTS = parts(NAME)
STEPS = 10
TWO_TRIALS = 2.5 * PARTS["TRIAL_SECONDS"] * STEPS / 600


class NotFiniteGenerator(np.random.Generator):
    """Draws that make a seed's nets not finite."""

    def standard_normal(self, size: Any = None, *_: Any, **__: Any) -> Any:
        return np.full(size, np.nan)


class NotFiniteTask(Task):
    def rng(self, stream: int) -> np.random.Generator:
        return NotFiniteGenerator(super().rng(stream).bit_generator)


def make_task(
    folder: Path,
    seed: int,
    device: str = "cpu:0",
    kind: type[Task] = Task,
    on_progress: Callable[[float], None] | None = None,
) -> Task:
    own = folder / str(seed)
    own.mkdir(exist_ok=True)
    parameters = MANIFEST.resolve({"steps": STEPS})
    return kind(
        seed=seed, parameters=parameters, budget_seconds=TWO_TRIALS, folder=own, device=device,
        on_progress=on_progress,
    )  # fmt: skip


@cache
def alone(seed: int) -> Result:
    """The result of a seed on numpy, without a break."""
    return run_once(NAME, seed, budget_seconds=TWO_TRIALS, steps=STEPS)


def differences(seed: int, found: Any) -> list[str]:
    """Where a result disagrees with that of the seed alone."""
    assert alone(seed)["configs_done"] == 2
    return disagreements(MANIFEST, alone(seed), gate(MANIFEST, found))


def stop_at(fraction: float) -> Callable[[float], None]:
    def stop(now: float) -> None:
        if now >= fraction:
            raise Interrupted

    return stop


def test_members_agree_with_run_whatever_another_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PARTS, "TRIALS_AT_ONCE", 5)  # two groups, the first with trials of both
    kinds = {101: Task, 102: NotFiniteTask, 103: Task, 104: Task}
    tasks = [make_task(tmp_path, seed, kind=kind) for seed, kind in kinds.items()]
    with np.errstate(invalid="ignore"):
        first, failed, *others = PARTS["run_cohort"](tasks)
    assert isinstance(failed, np.linalg.LinAlgError)
    assert "trial 0" in str(failed)
    for seed, found in zip((101, 103, 104), (first, *others), strict=True):
        assert differences(seed, found) == []


def test_seeds_of_different_stages_go_on_together(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        PARTS["run"](make_task(tmp_path, 101, device="cpu", on_progress=stop_at(0.5)))
    seen: list[float] = []
    tasks = [make_task(tmp_path, 101, on_progress=seen.append), make_task(tmp_path, 102)]
    for seed, found in zip((101, 102), PARTS["run_cohort"](tasks), strict=True):
        assert differences(seed, found) == []
    assert seen == pytest.approx([0.5 + i / 12 for i in range(1, 7)])


def test_a_seed_of_an_interrupted_cohort_goes_on_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PARTS, "TRIALS_AT_ONCE", 2)
    tasks = [make_task(tmp_path, 101, on_progress=stop_at(0.51)), make_task(tmp_path, 102)]
    with pytest.raises(Interrupted):
        PARTS["run_cohort"](tasks)
    seen: list[float] = []
    last = make_task(tmp_path, 102, device="cpu", on_progress=seen.append)
    assert differences(102, PARTS["run"](last)) == []
    assert seen == [1.0]  # one trial was left


def test_on_a_core_the_numbers_are_those_of_run(tmp_path: Path) -> None:
    tasks = [
        make_task(tmp_path, 101, device="cpu"),
        make_task(tmp_path, 102, device="cpu", kind=NotFiniteTask),
    ]
    with np.errstate(invalid="ignore"):
        found, failed = PARTS["run_cohort"](tasks)
    assert found == PARTS["run"](make_task(tmp_path / "101", 101, device="cpu"))
    assert isinstance(failed, np.linalg.LinAlgError)


def test_every_trial_that_is_lacking_is_in_one_group() -> None:
    groups = PARTS["groups_of_trials"]([6, 0, 4] + [0] * 97, 6)
    assert [len(group) for group in groups] == [196, 197, 197]
    lacking = {(number, 1) for number in range(6)} | {(4, 2), (5, 2)}
    lacking |= {(number, seed) for number in range(6) for seed in range(3, 100)}
    assert sorted(itertools.chain(*groups)) == sorted(lacking)
