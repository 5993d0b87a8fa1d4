"""rank_dynamics: its signature and controls, its detector's nulls, its promises to the runner.

The constants of the experiment were chosen on seeds 0 to 4. The ten below were not looked at.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from axiom_client.run.experiment import load_run
from axiom_client.run.task import Task
from axiom_protocol.agreement import disagreements
from axiom_protocol.result import Result, gate
from tests.science.harness import EXPERIMENTS, experiment, run_once
from tests.science.plan import TEN
from tests.science.runs import result as kept

NAME = "rank_dynamics"
QUICK = {"epochs": 40, "budget_seconds": 0.7}  # the three shallow and one medium configuration


def code(name: str) -> Any:
    """A function or constant of the experiment's file."""
    return experiment(NAME)[1].__globals__[name]


@pytest.fixture(scope="module")
def quick() -> Result:
    return run_once(NAME, 101, **QUICK)


# ---------------------------------------------------------------- many seeds at once


def alone_and_together(folder: Path, device: str, **parameters: Any) -> list[tuple[Result, Result]]:
    """The results of three seeds by `run` on the CPU, and by `run_cohort` on ``device``."""
    manifest, run = experiment(NAME)

    def tasks(on: str) -> list[Task]:
        own = [folder / f"{on.replace(':', '-')}-{seed}" for seed in (101, 102, 103)]
        for each in own:
            each.mkdir()
        return [
            Task(
                seed=101 + i, parameters=manifest.resolve(parameters), budget_seconds=0.7,
                folder=each, device=on,
            )
            for i, each in enumerate(own)
        ]  # fmt: skip

    together = code("run_cohort")(tasks(device))
    alone = [run(task) for task in tasks("cpu" if device != "cpu" else "cpu:0")]
    return list(zip(alone, together, strict=True))


@pytest.mark.parametrize("rates", [[0.005, 0.1], [0.02, 0.5]], ids=["stable", "some diverge"])
def test_a_gpus_code_for_many_seeds_agrees_with_a_core(tmp_path: Path, rates: list[float]) -> None:
    """torch's device "cpu:0" takes the path of a GPU."""
    manifest, _ = experiment(NAME)
    for alone, together in alone_and_together(tmp_path, "cpu:0", epochs=5, learning_rates=rates):
        assert disagreements(manifest, gate(manifest, alone), gate(manifest, together)) == []


def test_one_seed_on_a_gpu_agrees_with_a_cohort_on_a_core(tmp_path: Path) -> None:
    manifest, _ = experiment(NAME)
    for alone, together in alone_and_together(tmp_path, "cpu", epochs=5):
        assert disagreements(manifest, gate(manifest, alone), gate(manifest, together)) == []


# ---------------------------------------------------------------- signature


def check_signature(result: Result) -> None:
    assert result["valid"] == 1
    assert result["compressed_share_small"] == 1.0
    assert -0.6 < result["weight_change_small"] < -0.4
    assert result["weight_change_he"] - result["weight_change_small"] > 0.25
    assert result["compressed_share_he"] < 0.5
    assert abs(result["untrained_change"]) < 0.15


def test_quick_run_shows_that_compression_depends_on_initialisation(quick: Result) -> None:
    assert quick["valid"] == 1
    assert quick["compressed_share_small"] == 1.0
    assert quick["weight_change_he"] - quick["weight_change_small"] > 0.2


def test_both_arms_start_at_the_same_ranks(quick: Result) -> None:
    for config in quick["configs"]:
        for kind in ("layers", "hidden_layers", "centred_layers"):
            small = [curve[0] for curve in config[f"small_{kind}"]]
            assert small == pytest.approx([curve[0] for curve in config[f"he_{kind}"]], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", TEN)
def test_signature(seed: int) -> None:
    result = kept(NAME, seed)
    check_signature(result)
    assert result["configs_done"] == 9
    assert result["rate_effect"] < 0
    assert result["transition_share_strict"] < 0.34
    assert result["transition_share_naive"] == 1.0
    assert abs(result["accuracy_small"] - result["accuracy_he"]) < 0.01


# ---------------------------------------------------------------- broken twins


def broken(old: str, new: str, seed: int) -> Result:
    """A quick run of a twin whose source has ``new`` in the place of ``old``."""
    source = (EXPERIMENTS / f"{NAME}.py").read_text()
    assert source.count(old) == 1
    manifest, _ = experiment(NAME)
    parameters = manifest.resolve({"epochs": 20})
    task = Task(seed=seed, parameters=parameters, budget_seconds=0.1, folder=Path("unused"))
    task.checkpoint = lambda state: None  # type: ignore[method-assign]
    return gate(manifest, load_run(source.replace(old, new), NAME)(task))


def test_shuffled_labels_fail_the_gates() -> None:
    shuffled = "return rng.permutation(centres[labels]) + "
    assert broken("return centres[labels] + ", shuffled, 101)["valid"] == 0


def test_a_test_set_of_another_task_fails_the_gates() -> None:
    old = "return draw_points(rng, centres), draw_points(rng, centres)"
    new = "return draw_points(rng, centres), draw_points(rng, rng.permutation(-centres))"
    assert broken(old, new, 101)["valid"] == 0


# ---------------------------------------------------------------- the detector

#: Where a default run looks at its weights, and that axis from 0 to 1: even in log time.
STEPS = np.array([0, *code("log_steps")(400)])
U = np.log(np.maximum(STEPS, 1)) / np.log(STEPS[-1])
T = STEPS / STEPS[-1]
N = len(STEPS)


def decay(r: np.random.Generator) -> np.ndarray:
    """Exponential in steps, of any time constant: in log time it falls over a third of the run."""
    return np.exp(-T / 10 ** r.uniform(-3.5, 0.3)) + r.normal(0, 10 ** r.uniform(-4, -1), N)


def power_law(r: np.random.Generator) -> np.ndarray:
    slope = -r.uniform(0.2, 2)
    return (1 + T * 10 ** r.uniform(0, 4)) ** slope + r.normal(0, 10 ** r.uniform(-4, -1), N)


def ramp(r: np.random.Generator) -> np.ndarray:
    """A straight fall over a third of log time or more, level before and after."""
    width = r.uniform(0.33, 1.0)
    start = r.uniform(0.0, 1.0 - width)
    return 1 - np.clip((U - start) / width, 0, 1) + r.normal(0, 10 ** r.uniform(-4, -1), N)


def white_noise(r: np.random.Generator) -> np.ndarray:
    return r.normal(0, 1, N)


def random_walk(r: np.random.Generator) -> np.ndarray:
    return np.cumsum(r.normal(0, 1, N))


def sigmoid(r: np.random.Generator) -> np.ndarray:
    slope = r.uniform(0.02, 0.12) / (2 * math.log(9))  # 10-90 widths of 2 to 12 % of log time
    step = 0.5 - 0.5 * np.tanh((U - r.uniform(0.2, 0.8)) / (2 * slope))
    return step + r.normal(0, r.choice([0, 0.02, 0.08]), N)


@pytest.mark.parametrize("null", [decay, power_law, ramp, white_noise, random_walk])
def test_strict_detector_is_silent_on(null: Any) -> None:
    r = np.random.default_rng(2026)
    assert sum(code("strict_transition")(null(r), STEPS) for _ in range(60)) <= 1


def test_strict_detector_finds_sharp_steps() -> None:
    """Its power on true steps: nine of ten. So what it says of a run could be otherwise."""
    r = np.random.default_rng(2026)
    assert sum(code("strict_transition")(sigmoid(r), STEPS) for _ in range(60)) >= 51


def test_a_gradual_fall_is_not_a_transition_and_a_sudden_one_is(quick: Result) -> None:
    steps = np.array(quick["log_steps"])
    time = np.log(np.maximum(steps, 1)) / np.log(steps[-1])
    curve = np.array(quick["configs"][0]["small_log_weights"])
    at_once = np.where(time < 0.5, curve[0], curve[-1])
    noise = np.random.default_rng(1).normal(0, 0.01, len(steps))
    assert not code("strict_transition")(curve, steps)
    assert code("strict_transition")(at_once + noise, steps)


def test_naive_detector_fires_on_the_nulls() -> None:
    r = np.random.default_rng(2026)
    assert sum(code("naive_transition")(power_law(r)) for _ in range(60)) >= 45


# ---------------------------------------------------------------- the measure


def test_stable_rank_is_that_of_the_singular_values() -> None:
    stack = np.random.default_rng(1).standard_normal((3, 40, 25))
    s = np.linalg.svd(stack, compute_uv=False)
    assert code("stable_rank")(stack) == pytest.approx((s**2).sum(1) / s[:, 0] ** 2, rel=1e-12)


def test_a_diverged_net_is_flagged_and_not_nan() -> None:
    result = run_once(
        NAME, 101, epochs=5, learning_rates=[0.005, 0.5], init_sd=1.0, budget_seconds=0.04
    )
    assert result["configs_done"] >= 2  # the gate has refused NaN already
    assert result["valid"] in (0, 1)


# ---------------------------------------------------------------- promises to the runner


def test_same_seed_same_numbers_and_another_seed_is_outside_tolerance(quick: Result) -> None:
    manifest, _ = experiment(NAME)
    assert run_once(NAME, 101, **QUICK) == quick
    assert disagreements(manifest, quick, run_once(NAME, 102, **QUICK))


def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, quick: Result) -> None:
    class Interrupted(Exception):
        pass

    def stop_in_the_second_group(fraction: float) -> None:
        if fraction > 0.7:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_once(NAME, 101, folder=tmp_path, on_progress=stop_in_the_second_group, **QUICK)
    assert (tmp_path / "checkpoint.npz").exists()
    assert run_once(NAME, 101, folder=tmp_path, **QUICK) == quick


def test_budget_cuts_whole_configurations_only(quick: Result) -> None:
    parameters = experiment(NAME)[0].resolve({})
    plan = code("plan")
    counts = [sum(len(rates) for _, rates in plan(parameters, b)) for b in np.linspace(0, 40, 81)]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert set(counts) == set(range(1, 10))
    fewer = run_once(NAME, 101, epochs=QUICK["epochs"], budget_seconds=0.25)
    assert fewer["configs_done"] == len(fewer["configs"]) == 2
    assert fewer["configs"] == quick["configs"][:2]


def test_torch_computes_the_same_as_numpy(tmp_path: Path) -> None:
    """The path of a GPU, with torch on the CPU in its place."""
    manifest, run = experiment(NAME)
    results = []
    for device in ("cpu", "cpu:0"):
        folder = tmp_path / device.replace(":", "_")
        folder.mkdir()
        parameters = manifest.resolve({"epochs": 5, "precision": "f64"})
        task = Task(
            seed=101, parameters=parameters, budget_seconds=0.04, folder=folder, device=device
        )
        results.append(gate(manifest, run(task)))
    for a, b in zip(*(r["configs"] for r in results), strict=True):
        assert a["small_weights"] == pytest.approx(b["small_weights"], rel=1e-10)
        assert a["he_centred"] == pytest.approx(b["he_centred"], rel=1e-10)
