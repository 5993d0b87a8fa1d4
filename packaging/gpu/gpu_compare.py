"""Compares results of the experiments on a GPU with those on a core, and with themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gpu_commands import ROOT, environment

from axiom_protocol.agreement import disagreements
from axiom_protocol.manifest import Manifest, read_manifest
from axiom_protocol.result import gate

#: Nominal seconds for each experiment. Its default plan would take too long on a GPU that computes
#: one seed at a time; these budgets still cover every arm and control at the plan's start.
BUDGETS = {
    "rank_dynamics": 5.0, "catapult_phase": 1.0, "double_descent_v2": 1.0,
    "feature_learning_phase": 1.0, "progressive_sharpening": 2.0, "rank_lottery": 1.0,
    "sam_vs_sgd_v2": 2.0, "activation_functions": 1.0, "edge_of_chaos": 1.0, "grokking": 1.0,
    "simplicity_bias": 1.0,
}  # fmt: skip
SEEDS = (501, 502, 503)
Job = tuple[str, str, tuple[int, ...]]  # experiment, device, seeds


def compare(device: str, names: Sequence[str]) -> Any:
    """Each experiment on three seeds: its results on this device and on a core agree by field.

    On a GPU, an experiment that supports cohorts runs the three seeds together, and one alone.
    """
    manifests = {
        name: read_manifest((ROOT / "experiments" / f"{name}.py").read_text()) for name in names
    }
    jobs: list[Job] = [(name, "cpu", (seed,)) for name in names for seed in SEEDS]
    for name, manifest in manifests.items():
        single = SEEDS[:1] if manifest.cohort else SEEDS
        jobs += [(name, device, (seed,)) for seed in single]
        jobs += [(name, device, SEEDS)] if manifest.cohort else []
    runs = dict(zip(jobs, _experiment_runs(jobs), strict=True))
    answers = {name: _compared(name, manifests[name], device, runs) for name in names}
    wrong = {name: answer["differ"] for name, answer in answers.items() if answer["differ"]}
    assert not wrong, json.dumps({"wrong": wrong, "all": answers})
    return answers


def _compared(
    name: str, manifest: Manifest, device: str, runs: dict[Job, dict[str, Any]]
) -> dict[str, Any]:
    """Seconds of each kind of run, and every field in which a run differs from that on a core."""
    differ: dict[str, list[str]] = {}
    seconds: dict[str, float] = {}
    for (ran, where, seeds), run in runs.items():
        if ran != name:
            continue
        kind = f"{where}, {len(seeds)} seed" + ("s" if len(seeds) > 1 else "")
        seconds.setdefault(kind, run.get("seconds", -1.0))
        for i, seed in enumerate(seeds):
            core = runs[name, "cpu", (seed,)]
            problems = [one["error"] for one in (core, run) if "error" in one] or disagreements(
                manifest, gate(manifest, core["results"][0]), gate(manifest, run["results"][i])
            )
            if problems:
                differ[f"{kind}: {seed}"] = problems
    return {"budget_seconds": BUDGETS[name], "differ": differ,
            "seconds": {kind: round(s, 1) for kind, s in seconds.items()}}  # fmt: skip


def _experiment_runs(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    workers = max(1, min((os.cpu_count() or 2) - 2, 14))
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(_experiment_run, jobs))


EXPERIMENT_CHILD = """
import json, sys, tempfile, time, torch
from pathlib import Path
from axiom_client.run.experiment import load_run, load_run_cohort
from axiom_client.run.task import Task
from axiom_protocol.manifest import read_manifest
path, device, budget, *seeds = sys.argv[1:]
torch.set_num_threads(1)
if device != "cpu": torch.ones(1, device=device)
source = Path(path).read_text()
manifest = read_manifest(source)
tasks = [Task(seed=int(seed), parameters=manifest.resolve({}), device=device,
              budget_seconds=float(budget), folder=Path(tempfile.mkdtemp())) for seed in seeds]
begun = time.monotonic()
if len(tasks) == 1:
    results = [load_run(source, manifest.name)(tasks[0])]
else:
    results = load_run_cohort(source, manifest.name)(tasks)
print(json.dumps({"results": results, "seconds": time.monotonic() - begun}))
"""


def _experiment_run(job: Job) -> dict[str, Any]:
    name, device, seeds = job
    done = subprocess.run(
        [sys.executable, "-P", "-c", EXPERIMENT_CHILD, str(ROOT / "experiments" / f"{name}.py"),
         device, str(BUDGETS[name]), *map(str, seeds)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    if done.returncode:
        return {"error": done.stderr[-500:]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def same_twice(device: str) -> Any:
    """Two runs of one seed on this device give the same numbers, bit for bit."""
    alone: Job = ("rank_dynamics", device, (601,))
    together: Job = ("rank_dynamics", device, (601, 602))
    runs = _experiment_runs([alone, alone, together, together])
    assert runs[0]["results"] == runs[1]["results"], "two runs differ"
    assert runs[2]["results"] == runs[3]["results"], "two runs of a cohort differ"
    return "equal"
