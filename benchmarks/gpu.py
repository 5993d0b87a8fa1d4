"""How many cores one GPU is worth: seeds per hour of cohorts on it, against one core of the host.

    python -m benchmarks.gpu [--sizes 1,8,64,256] [--device cuda:0] [--json FILE] [NAME ...]

For each experiment that supports cohorts: one seed on a core by ``run``, and cohorts of each size
on the device by ``run_cohort``, with the same parameters and budget. The device's runs take place
one after the other in one process, the clock of each starting after the imports and, for the first,
before the device is used. The cores' runs take place at the same time, each on a core of its own.
Then the kernels of a short cohort are listed by the time that they take. With ``--device cpu``,
cohorts run on one core, where they should never be slower than one seed at a time; that is measured
in CPU time, with small budgets.

The last line is JSON; every ratio is cores' worth: core seconds a seed over device seconds a seed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from axiom_client.run.experiment import load_run, load_run_cohort
from axiom_client.run.task import Task
from axiom_protocol.agreement import disagreements
from axiom_protocol.manifest import Manifest, read_manifest
from axiom_protocol.result import gate
from benchmarks.common import report

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FIRST_SEED = 7001
TIMEOUT_SECONDS = 400.0
SAMPLE_SECONDS = 0.1  # between looks at the share of the device in use
CPU_BUDGET_SECONDS = 5.0  # of one seed, when cohorts on a core are compared
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
#: Parameters of a short cohort, which a profiler can follow kernel by kernel.
PROFILED: dict[str, dict[str, Any]] = {
    "rank_dynamics": {"epochs": 10},
    "catapult_phase": {"steps": 100, "widths": [512]},
    "rank_lottery": {"steps": 20},
    "sam_vs_sgd_v2": {"steps": 100},
}
PROFILED_SEEDS = 64
TOP = 8  # kernels that a profile lists


def main() -> None:
    """Measure the named experiments, or all that support cohorts."""
    given = _arguments()
    if given.child:
        print(json.dumps(_child(**json.loads(given.child))))
        return
    names = given.names or _with_cohorts()
    measure = _on_core if given.device == "cpu" else _on_gpu
    figures = measure(names, given)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    flat = {f"{name}_{key}": v for name, row in figures.items() for key, v in row.items()}
    report("gpu", flat, {"name": "one core of the same machine, one seed at a time"})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="a GPU's cohorts against one core")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--device", default=_default_device())
    parser.add_argument("--sizes", default="1,8,64,256", help="seeds together on the GPU")
    parser.add_argument(
        "--longest", type=float, default=60.0, metavar="SECONDS",
        help="leave out a size that would take longer, by the time of the size before",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3, help="with --device cpu")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _default_device() -> str:
    return "cuda:0" if Path("/dev/nvidiactl").exists() else "cpu"


def _with_cohorts() -> list[str]:
    paths = sorted(EXPERIMENTS.glob("*.py"))
    return [path.stem for path in paths if read_manifest(path.read_text()).cohort]


def _manifest(name: str) -> Manifest:
    return read_manifest((EXPERIMENTS / f"{name}.py").read_text())


# --- on a GPU -------------------------------------------------------------------------------------


def _on_gpu(names: list[str], given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    sizes = [int(word) for word in given.sizes.split(",")]
    with ThreadPoolExecutor(max(1, min(len(names), (os.cpu_count() or 2) - 2))) as pool:
        cores = {name: pool.submit(_run, name=name, device="cpu", sizes=[1]) for name in names}
        figures = {}
        for name in names:
            taken = _run(name=name, device=given.device, sizes=sizes, longest=given.longest)
            figures[name] = _figures(name, cores[name].result(), taken)
            print(f"{name}: {json.dumps(figures[name])}", flush=True)
        return figures


def _figures(name: str, core: dict[str, Any], taken: dict[str, Any]) -> dict[str, Any]:
    """Cores' worth by size, seeds an hour, and whether the first seed agrees with a core's."""
    manifest, alone = _manifest(name), core["runs"][0]
    row: dict[str, Any] = {"core_seconds": round(alone["seconds"], 2)}
    for run in taken["runs"]:
        size, each = run["seeds"], run["seconds"] / run["seeds"]
        row[f"seconds_{size}"] = round(run["seconds"], 2)
        row[f"cores_{size}"] = round(alone["seconds"] / each, 1)
        row[f"seeds_per_hour_{size}"] = round(3600 / each)
        row[f"device_busy_{size}"] = run["device_busy"]
        row[f"gpu_bytes_{size}"] = run["gpu_bytes"]
        row[f"differs_{size}"] = disagreements(
            manifest, gate(manifest, alone["first"]), gate(manifest, run["first"]), limit=2
        )
    return row | {"profile": taken["profile"]}


class _Utilisation:
    """Samples the share of time in which the first GPU computes, while it is entered."""

    def __init__(self) -> None:
        self._stop, self._samples = threading.Event(), list[int]()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> _Utilisation:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def share(self) -> float | None:
        """The mean of the samples; None without NVML."""
        return round(statistics.mean(self._samples) / 100, 2) if self._samples else None

    def _sample(self) -> None:
        import pynvml

        try:
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            while not self._stop.wait(SAMPLE_SECONDS):
                self._samples.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except pynvml.NVMLError:
            return  # there is no figure, then


# --- on one core ----------------------------------------------------------------------------------


def _on_core(names: list[str], given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """CPU seconds of cohorts of 4 seeds on one core over those of the same seeds one by one."""
    rows = {}
    for name in names:
        ratios = []
        for _ in range(given.rounds):
            both = [
                _run(name=name, device="cpu", sizes=[4], budget=CPU_BUDGET_SECONDS, apart=apart)
                for apart in (True, False)
            ]
            apart_seconds, together_seconds = (one["runs"][0]["cpu_seconds"] for one in both)
            ratios.append(together_seconds / apart_seconds)
            print(f"{name}: together over one by one {ratios[-1]:.3f}", flush=True)
        rows[name] = {"together_over_one_by_one": statistics.median(ratios)}
    return rows


# --- in a process of its own ----------------------------------------------------------------------


def _run(**given: Any) -> dict[str, Any]:
    """What `_child` returns in a new process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--child", json.dumps(given)],
        cwd=EXPERIMENTS.parent, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, text=True,
        timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{given} ended with {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _child(
    name: str, device: str, sizes: list[int], longest: float = TIMEOUT_SECONDS,
    budget: float = 0.0, apart: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run cohorts of these sizes in this process, one by one if ``apart``."""
    import torch

    torch.set_num_threads(1)
    experiment = _Experiment(name, device, budget)
    runs: list[dict[str, Any]] = []
    for size in sizes:
        if runs and runs[-1]["seconds"] * size / runs[-1]["seeds"] > longest:
            break
        alone = apart or (device == "cpu" and size == 1)
        runs.append(experiment.timed(size, alone))
        print(f"{name}, {size} seeds on {device}: {runs[-1]['seconds']:.1f} s", file=sys.stderr)
    return {"runs": runs, "profile": experiment.profiled() if device.startswith("cuda") else None}


class _Experiment:
    """One experiment on a device, in this process."""

    def __init__(self, name: str, device: str, budget: float) -> None:
        self._name, self._device = name, device
        self._source = (EXPERIMENTS / f"{name}.py").read_text()
        self._manifest = read_manifest(self._source)
        self._most = self._manifest.cohort.most if self._manifest.cohort else 1
        self._budget = budget or self._manifest.expected_seconds
        self._used = False

    def timed(self, seeds: int, alone: bool) -> dict[str, Any]:
        """Seconds of these seeds, the first one's result, the use of the device."""
        import torch

        cuda = self._device.startswith("cuda")
        if cuda and self._used:  # the first run is to begin without CUDA
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self._used = True
        begun, cpu_begun = time.monotonic(), time.process_time()
        with _Utilisation() as used:
            results = self._compute(seeds, alone, {})
        return {
            "seeds": seeds,
            "seconds": time.monotonic() - begun,
            "cpu_seconds": time.process_time() - cpu_begun,
            "gpu_bytes": torch.cuda.max_memory_reserved() if cuda else 0,
            "device_busy": used.share() if cuda else None,
            "first": results[0],
        }

    def profiled(self) -> dict[str, Any]:
        """Milliseconds of a short cohort by kernel (torch's profiler), the largest first."""
        from torch.profiler import ProfilerActivity, profile

        begun = time.monotonic()
        with profile(activities=[ProfilerActivity.CUDA]) as kernels:
            self._compute(min(PROFILED_SEEDS, self._most), False, PROFILED.get(self._name, {}))
        rows = sorted(kernels.key_averages(), key=lambda row: -row.self_device_time_total)
        device = [(row.key[:90], row.self_device_time_total / 1e3, row.count) for row in rows]
        return {
            "wall_ms": round(1e3 * (time.monotonic() - begun)),
            "device_ms": round(sum(ms for _, ms, _ in device)),
            "kernels": {key: [round(ms, 1), count] for key, ms, count in device[:TOP]},
        }

    def _compute(self, seeds: int, alone: bool, parameters: dict[str, Any]) -> list[Any]:
        with tempfile.TemporaryDirectory() as folder:
            tasks = [self._task(i, Path(folder), parameters) for i in range(seeds)]
            if alone:
                run = load_run(self._source, self._name)
                return [run(task) for task in tasks]
            return list(load_run_cohort(self._source, self._name)(tasks))

    def _task(self, number: int, parent: Path, parameters: dict[str, Any]) -> Task:
        folder = parent / str(number)
        folder.mkdir()
        return Task(
            seed=FIRST_SEED + number, parameters=self._manifest.resolve(parameters),
            device=self._device, budget_seconds=self._budget, folder=folder,
        )  # fmt: skip


if __name__ == "__main__":
    main()
