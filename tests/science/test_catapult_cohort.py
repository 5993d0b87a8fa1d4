"""catapult_phase for many seeds at once. torch's device "cpu:0" takes the path of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

NAME = "catapult_phase"
SEEDS = (101, 102, 103)
SMALL: dict[str, Any] = {"widths": [64, 16, 32], "rates": [3.0, 1.0, 4.0, 20.0], "steps": 60}
MANIFEST = experiment(NAME)[0]


@pytest.fixture(autouse=True)
def own_default_dtype() -> Iterator[None]:
    """The script makes float64 torch's default."""
    import torch

    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def tasks(folder: Path, on_progress: Callable[[float], None] | None = None) -> list[Task]:
    """A task for each of SEEDS with its own folder; ``on_progress`` is that of the last."""
    folders = [folder / str(seed) for seed in SEEDS]
    for each in folders:
        each.mkdir(exist_ok=True)
    return [
        Task(
            seed=seed, parameters=MANIFEST.resolve(SMALL), budget_seconds=60.0, folder=each,
            device="cpu:0", on_progress=on_progress if seed == SEEDS[-1] else None,
        )
        for seed, each in zip(SEEDS, folders, strict=True)
    ]  # fmt: skip


@cache
def alone(seed: int) -> Result:
    """The result of a seed by ``run``, without a break."""
    return run_once(NAME, seed, **SMALL)


def run_together(folder: Path, on_progress: Callable[[float], None] | None = None) -> list[Result]:
    found = parts(NAME)["run_cohort"](tasks(folder, on_progress))
    return [gate(MANIFEST, result) for result in found]


def interrupt(fraction: float) -> None:
    raise Interrupted


def diverged(result: Result, width: int, rate: float) -> bool:
    configs = result["configs"]
    return any(c["diverged"] for c in configs if (c["width"], c["rate"]) == (width, rate))


def test_each_seed_agrees_with_its_own_run_whether_or_not_it_diverges(tmp_path: Path) -> None:
    seen: list[float] = []
    ones = [alone(seed) for seed in SEEDS]
    for one, other in zip(ones, run_together(tmp_path, seen.append), strict=True):
        assert disagreements(MANIFEST, one, other) == []
    assert seen == [1 / 3, 2 / 3, 1.0]
    assert all(diverged(one, 64, 20.0) for one in ones)
    assert {diverged(one, 64, 4.0) for one in ones} == {True, False}


def test_a_cohort_takes_up_seeds_at_different_points(tmp_path: Path) -> None:
    seen: list[float] = []

    def stop_at_the_fifth(fraction: float) -> None:
        seen.append(fraction)
        if len(seen) == 5:
            raise Interrupted

    last = SEEDS[-1]
    tasks(tmp_path)
    with pytest.raises(Interrupted):
        run_once(NAME, last, folder=tmp_path / str(last), on_progress=stop_at_the_fifth, **SMALL)
    for seed, result in zip(SEEDS, run_together(tmp_path), strict=True):
        assert disagreements(MANIFEST, alone(seed), result) == []


def test_a_seed_of_an_interrupted_cohort_continues_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = parts(NAME)
    monkeypatch.setitem(own, "SAVE_EVERY", 1)
    with pytest.raises(Interrupted):
        own["run_cohort"](tasks(tmp_path, interrupt))
    saved = [task.restore() for task in tasks(tmp_path)]
    assert [len(state["done"]) for state in saved if state] == [len(SMALL["rates"])] * 3
    continued = run_once(NAME, SEEDS[0], folder=tmp_path / str(SEEDS[0]), **SMALL)
    assert disagreements(MANIFEST, continued, alone(SEEDS[0])) == []


def test_on_a_core_the_bits_are_those_of_run(tmp_path: Path) -> None:
    members = tasks(tmp_path)
    for member in members:
        member.device = "cpu"
    found = [gate(MANIFEST, result) for result in parts(NAME)["run_cohort"](members)]
    assert found == [alone(seed) for seed in SEEDS]


def test_a_net_without_finite_weights_leaves_the_others_their_bits(tmp_path: Path) -> None:
    own = parts(NAME)

    def trained(broken: bool) -> Any:
        nets = own["draw_nets"](tasks(tmp_path), 64, [1.0, 3.0])
        if broken:
            nets.first[2], nets.second[2] = float("nan"), float("inf")
            nets.forward()
        losses, lambdas = own["descend_together"](nets, 40, "cpu:0")
        return losses, lambdas, nets.test_losses(2).numpy()[:, 0].T

    for sound, found in zip(trained(False), trained(True), strict=True):
        others = [0, 1, 3, 4, 5]
        np.testing.assert_array_equal(found[:, others], sound[:, others])
        assert np.isnan(found[-1, 2])


@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-9, 1e-6, 1e-3, 0.5])
def test_squaring_finds_the_top_eigenvalue_however_close_the_next(gap: float) -> None:
    import torch

    rng = np.random.default_rng(1)
    frame, _ = np.linalg.qr(rng.standard_normal((3, 64, 64)))
    values = np.concatenate([[1.0, 1.0 - gap], np.linspace(0.4, 0.0, 62)])
    stack = torch.tensor((frame * values) @ frame.mT * np.array([1e-9, 1.0, 1e9])[:, None, None])
    found = parts(NAME)["top_eigenvalues"](stack)[:, 0, 0].numpy()
    np.testing.assert_allclose(found, [1e-9, 1.0, 1e9], rtol=1e-9)


def test_batches_hold_the_pairs_in_order_within_their_bytes() -> None:
    own = parts(NAME)
    pairs = [(width, rate) for width in (4096, 8192, 16, 16) for rate in range(20)]
    found = list(own["batches"](pairs))
    assert [(width, rate) for width, rates, _ in found for rate in rates] == pairs
    assert [end for *_, end in found] == np.cumsum([len(rates) for _, rates, _ in found]).tolist()
    most = max(len(rates) * width for width, rates, _ in found)
    assert most * own["SAMPLES"] * 8 == own["BATCH_BYTES"]


@pytest.mark.parametrize(("last", "points"), [(100, [60, 80, 100]), (80, [60, 80]), (70, [60, 70])])
def test_a_path_ends_where_its_net_diverged(last: int, points: list[int]) -> None:
    """From there on the net stands still, so its last curvature is that of this step."""
    losses = np.where(np.arange(101) < last, 1.0, 2e5 if last < 100 else 0.5)
    kept = [*range(61), 80, 100]
    lambdas = np.array([float(min(step, last)) for step in kept])
    path = parts(NAME)["path_of"](losses, lambdas, 0.1, 0.2, 0.3)
    assert len(path["losses"]) == last + 1
    assert path["at"] == [*range(60), *points]
    assert path["lambdas"] == path["at"]
    assert path["diverged"] == (last < 100)
