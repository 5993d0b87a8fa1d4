"""Compares the experiments' CPU time with plain references of the same computation, on one core.

    python -m benchmarks.experiments [--rounds 3] [--seed 7] [NAME ...]

For each benchmarks/reference/NAME.py: the experiment and the reference run in turn, each in a new
child pinned to one core, and their CPU time comes from wait4. Every number that both return is
compared: to 1e-10 where both are float64, to the declared tolerance at the default precision. The
last line is JSON. A reference is a module that takes ``--seed N`` and prints, as JSON, a table
whose keys are a subset of the experiment's result.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from axiom_protocol.manifest import Field, Manifest, read_manifest

ROOT = Path(__file__).parents[1]
F64_RTOL = 1e-10  # same arithmetic in another order
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

#: Runs the experiment as a volunteer's task would be run, and prints its result.
EXPERIMENT_CHILD = """
import json, sys
from tests.science.harness import run_once
name, seed, parameters = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
print(json.dumps(run_once(name, seed, **parameters)))
"""


class Disagreement(Exception):
    """The numbers of the experiment and its reference differ by more than allowed."""


def main() -> None:
    parser = argparse.ArgumentParser(description="experiments against plain references")
    parser.add_argument("names", nargs="*", help="default: every one that has a reference")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    names = arguments.names or referenced()
    each = {name: compare(name, arguments.rounds, arguments.seed) for name in names}
    figures = {f"{name}_{k}": v for name, row in each.items() for k, v in row.items()}
    if "rank_dynamics" in each:
        figures = {"cpu_ratio": each["rank_dynamics"]["cpu_ratio"], **figures}
    baseline = {
        "name": "plain eager reference, one core (benchmarks/reference)",
        "numpy": np.__version__,
        "references": names,
    }
    print(json.dumps({"benchmark": "experiments", "figures": figures, "baseline": baseline}))


def referenced() -> list[str]:
    """The experiments that have a reference."""
    folder = ROOT / "benchmarks" / "reference"
    names = (path.stem for path in folder.glob("*.py"))
    return sorted(name for name in names if (ROOT / "experiments" / f"{name}.py").exists())


def compare(name: str, rounds: int, seed: int) -> dict[str, float]:
    """Figures of one experiment: median CPU seconds, their ratio, the worst differences."""
    manifest = read_manifest((ROOT / "experiments" / f"{name}.py").read_text())
    ours_command = [sys.executable, "-c", EXPERIMENT_CHILD, name, str(seed), "{}"]
    reference_command = [sys.executable, "-m", f"benchmarks.reference.{name}", "--seed", str(seed)]
    ours, theirs, ratios = [], [], []
    for i in range(rounds):
        result, ours_seconds = run_pinned(ours_command)
        reference, reference_seconds = run_pinned(reference_command)
        ours.append(ours_seconds)
        theirs.append(reference_seconds)
        ratios.append(ours_seconds / reference_seconds)
        line = f"{name} round {i + 1}: {ours_seconds:.1f} s against {reference_seconds:.1f} s"
        print(line, flush=True)
    figures = {
        "cpu_ratio": round(statistics.median(ratios), 3),
        "cpu_seconds": round(statistics.median(ours), 2),
        "reference_cpu_seconds": round(statistics.median(theirs), 2),
        "worst_share_of_tolerance": worst_share(manifest, reference, result),
    }
    if "precision" in manifest.parameters:
        exact, _ = run_pinned([*ours_command[:-1], json.dumps({"precision": "f64"})])
        figures["f64_worst_relative"] = worst = worst_relative(reference, exact)
        print(f"{name} in f64: worst relative difference {worst:.1e}")
        if worst > F64_RTOL:
            raise Disagreement(f"{name}: {worst:.1e} from its reference in f64")
    if figures["worst_share_of_tolerance"] > 1:
        raise Disagreement(f"{name}: outside its declared tolerances against its reference")
    return figures


def run_pinned(command: list[str]) -> tuple[Any, float]:
    """The JSON that a child prints, run on one core, and its CPU seconds (user + system, wait4)."""
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    environment = os.environ | ONE_THREAD
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, preexec_fn=pin
    ) as child:
        assert child.stdout is not None
        output = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{command[:4]} ended with exit code {child.returncode}")
    return json.loads(output), usage.ru_utime + usage.ru_stime


def worst_relative(reference: Any, result: Any) -> float:
    """The largest relative difference, over all numbers of the reference."""
    return max(abs(a - b) / max(abs(a), abs(b), 1e-12) for _, a, b in pairs("", reference, result))


def worst_share(manifest: Manifest, reference: Any, result: Any) -> float:
    """The largest difference as a share of its field's tolerance; above 1 it is not tolerated."""
    worst = 0.0
    for path, a, b in pairs("", reference, result):
        field = field_at(manifest, path)
        if not field.chaotic and a != b:
            allowed = field.atol + field.rtol * max(abs(a), abs(b))
            worst = max(worst, abs(a - b) / max(allowed, 1e-300))
    return float(f"{worst:.3g}")


def field_at(manifest: Manifest, path: str) -> Field:
    fields = manifest.result
    *parents, last = path.strip(".").split(".")
    for parent in parents:
        fields = fields[parent].fields
    return fields[last]


def pairs(path: str, reference: Any, result: Any) -> Iterator[tuple[str, float, float]]:
    """(dotted field path, number of the reference, number of the result), for each of them."""
    if isinstance(reference, dict):
        for key, value in reference.items():
            yield from pairs(f"{path}.{key}", value, result[key])
    elif isinstance(reference, list):
        for a, b in zip(reference, result, strict=True):
            yield from pairs(path, a, b)
    else:
        yield path, float(reference), float(result)


if __name__ == "__main__":
    main()
