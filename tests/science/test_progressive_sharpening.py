"""progressive_sharpening: its signature and controls, its detector, its promises.

Tuned on seeds 0 to 4; and 101 to 131 took part as well: 105 diverges at rate 0.3, so the findings
were moved to lower rates, `held_down` was redefined with 111 to 116 in view, and findings read from
the median of the rates because of 128, which diverges at 0.2. So the ten seeds here are others,
fixed before they were run.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from axiom_client.run.task import Task
from axiom_protocol.agreement import disagreements
from axiom_protocol.result import gate
from tests.science import nulls
from tests.science.harness import compared_run, experiment, run_once
from tests.science.plan import TEN
from tests.science.promises import parts, resumed, twin
from tests.science.runs import result as kept

NAME = "progressive_sharpening"
SMALL: dict[str, Any] = {"widths": [16], "rates": [0.05, 0.2, 0.1], "steps_max": 200}
MANIFEST = experiment(NAME)[0]
PARTS = parts(NAME)


def signature(result: dict[str, Any]) -> dict[str, bool]:
    """Which declared claims hold for one run."""
    return {
        "valid": result["valid"] == 1,
        "sharpens": result["control_rise"] > 2,
        "linear_does_not": result["linear_rise"] < 1.5,
        "edge": result["edge_gap"] < 0.05 and result["most_at_edge"] == 1,
        "loss_falls": result["loss_fall"] < 0.1,
        "not_at_every_step": result["upward"] - result["control_upward"] > 0.01,
        "control_below": result["control_edge"] < 0.95 and result["control_at_edge"] == 0,
        "held_down": result["held_down"] > 1.2,
    }


def test_signature_of_one_seed_at_two_rates() -> None:
    result = run_once(NAME, 111, widths=[32], rates=[0.03, 0.2])
    assert signature(result) == dict.fromkeys(signature(result), True)


@pytest.mark.slow
def test_signature_and_controls_on_ten_seeds() -> None:
    held = [signature(kept(NAME, seed)) for seed in TEN]
    for claim in held[0]:
        assert sum(one[claim] for one in held) >= 9, claim


@pytest.mark.parametrize("kind", nulls.KINDS)
def test_detector_is_silent_where_nothing_happens(kind: str) -> None:
    alarms = [PARTS["reaches_edge"](curve) for curve in nulls.curves(kind, 300)]
    assert np.mean(alarms) <= nulls.FALSE_ALARMS_MAX


@pytest.mark.parametrize("n", [60, 300])
def test_detector_is_silent_on_nulls_whose_late_level_is_the_edge(n: int) -> None:
    """The worst scale there is: curves of every kind, moved so that their late median is 1."""
    curves = [curve for kind in nulls.KINDS for curve in nulls.curves(kind, n)]
    alarms = [PARTS["reaches_edge"](curve / np.median(curve[n // 2 :])) for curve in curves]
    assert np.mean(alarms) <= nulls.FALSE_ALARMS_MAX


def test_detector_finds_a_rise_to_the_edge_and_not_a_rise_to_elsewhere() -> None:
    rng = np.random.default_rng(5)
    time = np.arange(200) / 200

    def rise(level: float) -> Any:
        rising = 1 - rng.uniform(0.3, 0.8) * np.exp(-time / rng.uniform(0.01, 0.08))
        return level * (rising + rng.uniform(0.002, 0.06) * rng.standard_normal(200))

    found = [PARTS["reaches_edge"](rise(1.0)) for _ in range(nulls.COUNT)]
    alarms = [PARTS["reaches_edge"](rise(level)) for level in np.linspace(0.3, 0.9, nulls.COUNT)]
    assert np.mean(found) >= 0.95
    assert np.mean(alarms) <= nulls.FALSE_ALARMS_MAX


def test_gradient_and_sharpness_are_the_derivatives() -> None:
    rng, width, step = np.random.default_rng(1), 6, 1e-5
    data = PARTS["make_data"](rng)
    theta = PARTS["initial"](rng, width)

    def gradient(at: Any) -> Any:
        return PARTS["loss_and_gradient"](at, data, width)[1]

    _, found, seen = PARTS["loss_and_gradient"](theta, data, width)
    moves = step * np.eye(len(theta))
    slopes = [
        PARTS["loss_and_gradient"](theta + move, data, width)[0]
        - PARTS["loss_and_gradient"](theta - move, data, width)[0]
        for move in moves
    ]
    np.testing.assert_allclose(found, np.array(slopes) / (2 * step), rtol=1e-6, atol=1e-8)
    hessian = np.stack([gradient(theta + m) - gradient(theta - m) for m in moves]) / (2 * step)
    top, vector = PARTS["sharpness"](theta, data, width, seen, rng.standard_normal(len(theta)))
    assert top == pytest.approx(np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1], rel=1e-6)
    np.testing.assert_allclose(hessian @ vector, top * vector, atol=1e-3 * top)


def test_last_digits_are_rounded_away_at_the_edge_of_stability() -> None:
    """What another processor does to a gradient leaves no trace in a chaotic run."""
    clean = run_once(NAME, 111, widths=[16], rates=[0.05, 0.2], steps_max=600)
    own, noise = parts(NAME), np.random.default_rng(9)
    sound = own["loss_and_gradient"]

    def disturbed(theta: Any, data: Any, width: int) -> Any:
        loss, gradient, seen = sound(theta, data, width)
        return loss, gradient * (1 + 1e-15 * noise.standard_normal(len(gradient))), seen

    own["loss_and_gradient"] = disturbed
    parameters = MANIFEST.resolve({"widths": [16], "rates": [0.05, 0.2], "steps_max": 600})
    with tempfile.TemporaryDirectory() as folder:
        task = Task(seed=111, parameters=parameters, budget_seconds=45.0, folder=Path(folder))
        assert disagreements(MANIFEST, clean, gate(MANIFEST, own["run"](task))) == []


def test_same_seed_same_numbers_and_other_seed_other_numbers() -> None:
    first = compared_run(NAME, 101, **SMALL)
    assert run_once(NAME, 101, **SMALL) == first
    assert disagreements(MANIFEST, first, run_once(NAME, 102, **SMALL)) != []


@pytest.mark.parametrize("configs", [1, 2])
def test_resumed_equals_uninterrupted(tmp_path: Path, configs: int) -> None:
    whole = compared_run(NAME, 101, **SMALL)
    assert resumed(NAME, 101, tmp_path, configs, **SMALL) == whole


def test_budget_cuts_whole_configurations_only() -> None:
    whole = compared_run(NAME, 101, **SMALL)
    least = run_once(NAME, 101, budget_seconds=1e-9, **SMALL)
    some = run_once(NAME, 101, budget_seconds=0.2, **SMALL)
    assert [r["configs_done"] for r in (least, some, whole)] == [1, 2, 3]
    assert all(config in whole["configs"] for config in least["configs"] + some["configs"])
    assert least["valid"] == 0  # the control alone is no evidence


@pytest.mark.parametrize("broken", ["shuffled_labels", "test_set_of_another_task"])
def test_broken_twins_are_not_valid(tmp_path: Path, broken: str) -> None:
    def make_data(rng: np.random.Generator) -> dict[str, Any]:
        data: dict[str, Any] = PARTS["make_data"](rng)
        if broken == "shuffled_labels":
            return data | {"targets": rng.permutation(data["targets"])}
        other = PARTS["make_data"](rng)
        return data | {key: other[key] for key in ("test_inputs", "test_targets")}

    small: dict[str, Any] = {"widths": [32], "rates": [0.05, 0.2], "steps_max": 2500}
    assert compared_run(NAME, 111, **small)["valid"] == 1
    assert twin(NAME, 111, tmp_path, {"make_data": make_data}, **small)["valid"] == 0
