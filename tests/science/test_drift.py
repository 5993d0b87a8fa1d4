"""A seed agrees with itself on another processor within the tolerances; another seed does not.

Replication relies on this. OpenBLAS and ATen choose their kernels by processor. Here a child
process uses the kernels of another processor, so that sums are taken in another order and products
are fused or not, as on another host.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from axiom_protocol.agreement import disagreements
from axiom_protocol.result import Result
from tests.science.harness import experiment
from tests.science.plan import DRIFTING, FRESH, NAMES, drifted, whole
from tests.science.runs import KERNELS, RunSpec, result, results_in_one_process, run
from tests.science.twins import UNROUNDED

#: Short runs for the quick slice: the budget in seconds and the parameters that cost time.
QUICK: dict[str, dict[str, Any]] = {
    "activation_functions": {"steps": 20},
    "catapult_phase": {"widths": [64], "steps": 60},
    "depth_and_width": {"units": [32], "steps": 20},
    "double_descent_v2": {"steps": 60},
    "edge_of_chaos": {"steps": 10, "depth": 5},
    "eigenspectrum": {},
    "feature_learning_phase": {"samples": 16, "target_loss": 0.3},
    "grokking": {"steps": 50},
    "kernel_change": {},
    "loss_landscape_curvature": {"target_loss": 1.2},
    "progressive_sharpening": {"widths": [8], "steps_max": 200},
    "rank_dynamics": {"epochs": 10},
    "rank_lottery": {"steps": 20},
    "simplicity_bias": {"steps": 50},
    "sam_vs_sgd_v2": {"widths": [16], "steps": 100, "rhos": [0.1]},
}
SAMPLES_MAX = 10_000  # of a test set
QUICK_BUDGET_SECONDS = 0.1  # the least: one whole configuration


@pytest.fixture(scope="module")
def quick() -> dict[tuple[str, int, str | None], Result]:
    """Short runs by name, seed and kernel, made each time: quick tests keep no runs."""
    return {**quick_runs(None, 101, 102), **quick_runs("prescott", 101)}


def quick_runs(kernel: str | None, *seeds: int) -> dict[tuple[str, int, str | None], Result]:
    specs = [
        RunSpec(
            name=name, seed=seed, kernel=kernel, parameters=QUICK[name],
            budget_seconds=QUICK_BUDGET_SECONDS,
        )
        for name, seed in product(NAMES, seeds)
    ]  # fmt: skip
    found = results_in_one_process(specs)
    return {(s.name, s.seed, kernel): result for s, result in zip(specs, found, strict=True)}


def differences(name: str, a: Result, b: Result) -> list[str]:
    return disagreements(experiment(name)[0], a, b)


@pytest.mark.parametrize("name", NAMES)
def test_other_kernels_agree_and_another_seed_does_not(
    quick: dict[tuple[str, int, str | None], Result], name: str
) -> None:
    here = quick[name, 101, None]
    assert differences(name, here, quick[name, 101, "prescott"]) == []
    assert differences(name, here, quick[name, 102, None]) != []


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", NAMES)
def test_whole_runs_agree_under_other_kernels(name: str, kernel: str) -> None:
    for seed in FRESH[: DRIFTING[kernel]]:
        here, there = run(whole(name, seed)), run(drifted(name, seed, kernel))
        assert differences(name, here.result, there.result) == [], seed


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_seed_under_another_kernel_is_not_taken_for_drift(name: str) -> None:
    here = result(name, FRESH[0])
    there = run(drifted(name, FRESH[1], "prescott")).result
    assert differences(name, here, there) != []


#: Every number is a share of test samples, so the last digits of a weight need not show in any.
SHARES_ONLY = {"simplicity_bias"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES) - SHARES_ONLY - set(UNROUNDED)))
def test_the_kernels_do_differ(name: str) -> None:
    """Otherwise agreement would show nothing: at least one number moves in its last digits."""
    seed = FRESH[0]
    assert any(run(drifted(name, seed, k)).result != result(name, seed) for k in KERNELS)


@pytest.mark.slow
@pytest.mark.parametrize("name", UNROUNDED)
def test_rounding_gives_the_same_bits_and_without_it_the_kernels_differ(name: str) -> None:
    seed = FRESH[0]
    assert all(run(drifted(name, seed, k)).result == result(name, seed) for k in KERNELS)
    here = run(RunSpec(name=name, seed=seed, twin="unrounded")).result
    specs = [RunSpec(name=name, seed=seed, twin="unrounded", kernel=k) for k in KERNELS]
    assert any(run(spec).result != here for spec in specs)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SHARES_ONLY))
def test_every_number_is_a_share_of_samples(name: str) -> None:
    found = result(name, FRESH[0])
    shares = [v for v in found.values() if isinstance(v, float)]
    assert shares
    assert all(abs(v * SAMPLES_MAX - round(v * SAMPLES_MAX)) < 1e-6 for v in shares)
