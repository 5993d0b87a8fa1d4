"""Same seed, other arithmetic: agrees within the declared tolerances. Another seed: does not.

That is what replication relies on. OpenBLAS and ATen choose their kernels by processor; here a
child process is told to use those of another one, so that sums are taken in another order and
products are fused or not, as on another host.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from axiom_protocol.agreement import disagreements
from axiom_protocol.result import Result
from tests.science.harness import EXPERIMENTS, experiment

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.py"))

#: Processors to be imitated: fused multiply-add or not, vectors of 4, 4 and 2 float64.
KERNELS: dict[str, dict[str, str]] = {
    "haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "sandybridge": {"OPENBLAS_CORETYPE": "SandyBridge", "MKL_CBWR": "AVX"},
    "prescott": {
        "OPENBLAS_CORETYPE": "Prescott",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
    },
}

#: Short runs for the quick slice: the budget in seconds and the parameters that cost time.
QUICK: dict[str, dict[str, Any]] = {
    "catapult_phase": {"widths": [64], "steps": 60},
    "double_descent_v2": {"steps": 60},
    "feature_learning_phase": {"samples": 16, "target_loss": 0.3},
    "progressive_sharpening": {"widths": [8], "steps_max": 200},
    "rank_dynamics": {"epochs": 10},
    "rank_lottery": {"steps": 20},
    "sam_vs_sgd_v2": {"widths": [16], "steps": 100, "rhos": [0.1]},
}
QUICK_BUDGET_SECONDS = 0.1  # the least: one whole configuration

CHILD_SECONDS_MAX = 900  # far above the 120 s an experiment may take, on a crowded machine

CHILD = """
import json, sys
from tests.science.harness import run_once
name, seed, budget, parameters = json.loads(sys.argv[1])
print(json.dumps(run_once(name, seed, budget_seconds=budget, **parameters)))
"""


@cache
def in_child(name: str, seed: int, kernel: str | None, quick: bool) -> Result:
    """One gated result of a child process under the named kernels; None: the machine's own."""
    budget = QUICK_BUDGET_SECONDS if quick else None
    parameters = QUICK.get(name, {}) if quick else {}
    environment = {key: value for key, value in os.environ.items() if key not in _KERNEL_KEYS}
    environment |= {"OMP_NUM_THREADS": "1", **(KERNELS[kernel] if kernel else {})}
    child = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps([name, seed, budget, parameters])],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=CHILD_SECONDS_MAX,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-2000:]
    result: Result = json.loads(child.stdout)
    return result


_KERNEL_KEYS = {key for kernel in KERNELS.values() for key in kernel}


def differences(name: str, a: Result, b: Result) -> list[str]:
    return disagreements(experiment(name)[0], a, b)


@pytest.mark.parametrize("name", NAMES)
def test_other_kernels_agree_and_another_seed_does_not(name: str) -> None:
    here = in_child(name, 101, None, True)
    assert differences(name, here, in_child(name, 101, "prescott", True)) == []
    assert differences(name, here, in_child(name, 102, None, True)) != []


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [101, 102])
def test_whole_runs_agree_under_other_kernels(name: str, seed: int, kernel: str) -> None:
    here = in_child(name, seed, None, False)
    assert differences(name, here, in_child(name, seed, kernel, False)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_whole_runs_of_other_seeds_disagree(name: str) -> None:
    results = [in_child(name, seed, None, False) for seed in (101, 102, 103)]
    for i, a in enumerate(results):
        for b in results[:i]:
            assert differences(name, a, b) != []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_kernels_do_differ(name: str) -> None:
    """Otherwise agreement would show nothing: at least one number moves in its last digits."""
    here = in_child(name, 101, None, False)
    assert any(in_child(name, 101, kernel, False) != here for kernel in KERNELS)
