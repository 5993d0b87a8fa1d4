"""catapult_phase: its signature and controls, its detector, and what every experiment promises.

Tuned on seeds 0 to 4; the slope of the peak, at first that of a ratio, on 200 to 223 too.
The ten seeds here were fixed before they were run and not used in tuning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from axiom_protocol.agreement import disagreements
from tests.science import nulls
from tests.science.harness import compared_run, experiment, run_once
from tests.science.plan import TEN
from tests.science.promises import parts, resumed, twin
from tests.science.runs import result as kept

NAME = "catapult_phase"
SMALL: dict[str, Any] = {"widths": [128], "steps": 150}  # every rate, about half a second
MANIFEST = experiment(NAME)[0]
PARTS = parts(NAME)


def signature(result: dict[str, Any]) -> dict[str, bool]:
    """Which declared claims about one run's rates hold."""
    return {
        "valid": result["valid"] == 1,
        "no_spike_below": result["lazy_peak_ratio"] <= 1.05 and result["false_alarms"] == 0,
        "spike_above": result["catapult_peak_ratio"] > 3 and result["all_caught"] == 1,
        "recovery": result["catapult_final_loss"] < 1e-3,
        "flatter": result["unseen_lambda_ratio"] < 0.9 < 0.95 < result["lazy_unseen_ratio"],
        "overshoots": result["catapult_edge"] < 1.7,
        "divergence": 3.5 < result["first_divergent_rate"] < 5.5,
    }


def test_signature_of_one_seed_at_the_first_width() -> None:
    result = run_once(NAME, 101, widths=[512], steps=300)
    assert signature(result) == dict.fromkeys(signature(result), True)


@pytest.mark.slow
def test_signature_and_controls_on_ten_seeds() -> None:
    results = [kept(NAME, seed) for seed in TEN]
    held = [signature(result) for result in results]
    for claim in held[0]:
        assert sum(one[claim] for one in held) >= 9, claim
    slopes = np.array([result["peak_width_slope"] for result in results])
    assert np.sum((slopes > 0.85) & (slopes < 1.15)) >= 9  # the peak is proportional to the width
    assert sum(result["test_ratio"] < 1 for result in results) >= 9


@pytest.mark.parametrize("kind", nulls.KINDS)
def test_detector_is_silent_where_nothing_happens(kind: str) -> None:
    alarms = [PARTS["is_catapult"](curve) for curve in nulls.curves(kind, 601)]
    assert np.mean(alarms) <= nulls.FALSE_ALARMS_MAX


def test_detector_finds_real_catapults_and_not_their_controls() -> None:
    parameters: dict[str, Any] = {"widths": [128], "steps": 100, "rates": [3.0, 1.0]}
    results = [run_once(NAME, seed, **parameters) for seed in range(201, 221)]
    assert np.mean([result["all_caught"] for result in results]) >= 0.95
    assert sum(result["false_alarms"] for result in results) == 0


def test_kernel_eigenvalue_and_gradient_are_the_derivatives() -> None:
    rng = np.random.default_rng(1)
    data, width = PARTS["make_data"](rng), 16
    first, second = rng.standard_normal((10, width)), rng.standard_normal(width)

    def outputs(theta: Any) -> Any:
        return PARTS["hidden"](data["inputs"], theta[:160].reshape(10, width))[0] @ theta[160:]

    theta, step = np.concatenate([first.ravel(), second]), 1e-6
    columns = [outputs(theta + step * e) - outputs(theta - step * e) for e in np.eye(len(theta))]
    jacobian = np.stack(columns, axis=1) / (2 * step)
    active, slope = PARTS["hidden"](data["inputs"], first)
    top = PARTS["top_kernel_eigenvalue"](data["gram"], active, slope, second)
    assert top == pytest.approx(np.linalg.norm(jacobian, 2) ** 2 / 64, rel=1e-6)
    error = active @ second - data["targets"]
    by_first, by_second = PARTS["gradient"](data["inputs"], active, slope, second, error)
    found = np.concatenate([by_first.ravel(), by_second])
    np.testing.assert_allclose(found, jacobian.T @ error / 64, rtol=1e-5, atol=1e-8)


def test_same_seed_same_numbers_and_other_seed_other_numbers() -> None:
    first = compared_run(NAME, 101, **SMALL)
    assert run_once(NAME, 101, **SMALL) == first
    assert disagreements(MANIFEST, first, run_once(NAME, 102, **SMALL)) != []


@pytest.mark.parametrize("configs", [1, 7])
def test_resumed_equals_uninterrupted(tmp_path: Path, configs: int) -> None:
    whole = compared_run(NAME, 101, **SMALL)
    assert resumed(NAME, 101, tmp_path, configs, **SMALL) == whole


def test_budget_cuts_whole_configurations_only() -> None:
    whole = compared_run(NAME, 101, **SMALL)
    least = run_once(NAME, 101, budget_seconds=1e-9, **SMALL)
    some = run_once(NAME, 101, budget_seconds=0.1, **SMALL)
    assert (least["configs_done"], whole["configs_done"]) == (1, 15)
    assert 1 < some["configs_done"] < 15
    assert all(config in whole["configs"] for config in least["configs"] + some["configs"])
    assert least["valid"] == 0  # a spike without its control is no evidence


@pytest.mark.parametrize("broken", ["shuffled_labels", "test_set_of_another_task"])
def test_broken_twins_are_not_valid(tmp_path: Path, broken: str) -> None:
    def make_data(rng: np.random.Generator) -> dict[str, Any]:
        data: dict[str, Any] = PARTS["make_data"](rng)
        if broken == "shuffled_labels":
            return data | {"targets": rng.permutation(data["targets"])}
        other = PARTS["make_data"](rng)
        return data | {key: other[key] for key in ("test_inputs", "test_targets")}

    small: dict[str, Any] = {"widths": [512], "rates": [3.0, 1.0], "steps": 300}
    assert compared_run(NAME, 101, **small)["valid"] == 1
    assert twin(NAME, 101, tmp_path, {"make_data": make_data}, **small)["valid"] == 0
