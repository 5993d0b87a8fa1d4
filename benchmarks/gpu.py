"""How many cores one GPU is worth: seeds per hour of cohorts on it, against one core of the host.

    python -m benchmarks.gpu [--sizes 1,8,64,256] [--device cuda:0] [--json FILE] [NAME ...]

For each experiment that supports cohorts: one seed on a core by ``run``, and cohorts of each size
on the device by ``run_cohort``, with the same parameters and budget, each in a new process. The
clock starts after the imports and before the first use of the device. The cores' runs take place
at the same time as those of the GPU, each on a core of its own. With ``--device cpu``, cohorts
run on one core, where they should never be slower than one seed at a time; that is measured in CPU
time, with small budgets. ``--profile`` adds a short cohort's time by kernel and by function.

The last line is JSON; every ratio is cores' worth: core seconds a seed over device seconds a seed.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
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
TOP = 8  # kernels and functions that a profile lists


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
    parser.add_argument("--rounds", type=int, default=3, help="with --device cpu")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--profile", action="store_true")
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
        cores = {name: pool.submit(_run, name=name, device="cpu", seeds=1) for name in names}
        cohorts = {name: _cohorts(name, given, sizes) for name in names}
        return {name: _figures(name, cores[name], cohorts[name]) for name in names}


def _cohorts(name: str, given: argparse.Namespace, sizes: list[int]) -> dict[str, Any]:
    """Seconds of a cohort of each size, by size, and a profile where one is wanted."""
    cohort = _manifest(name).cohort
    taken: dict[str, Any] = {}
    for size in sizes:
        if cohort is not None and size <= cohort.most:
            with _Utilisation() as used:
                taken[str(size)] = _run(name=name, device=given.device, seeds=size)
            taken[str(size)]["device_busy"] = used.share()
            print(f"{name}, {size} seeds: {taken[str(size)]['seconds']:.1f} s", flush=True)
    if given.profile:
        parameters = PROFILED.get(name, {})
        taken["profile"] = _run(
            name=name, device=given.device, seeds=max(sizes[:3]), parameters=parameters,
            profile=True,
        )["profile"]  # fmt: skip
        print(json.dumps(taken["profile"], indent=1), flush=True)
    return taken


def _figures(name: str, core: Future[dict[str, Any]], taken: dict[str, Any]) -> dict[str, Any]:
    """Cores' worth by size, seeds an hour, and whether the first seed agrees with a core's."""
    alone, manifest = core.result(), _manifest(name)
    seconds = alone["seconds"]
    row: dict[str, Any] = {"core_seconds": round(seconds, 2)}
    for size, one in ((k, v) for k, v in taken.items() if k != "profile"):
        each = one["seconds"] / int(size)
        row[f"seconds_{size}"] = round(one["seconds"], 2)
        row[f"cores_{size}"] = round(seconds / each, 1)
        row[f"seeds_per_hour_{size}"] = round(3600 / each)
        row[f"device_busy_{size}"] = one["device_busy"]
        row[f"gpu_bytes_{size}"] = one["gpu_bytes"]
        row[f"differs_{size}"] = disagreements(
            manifest, gate(manifest, alone["first"]), gate(manifest, one["first"]), limit=2
        )
    print(f"{name}: {json.dumps(row)}", flush=True)
    return row | ({"profile": taken["profile"]} if "profile" in taken else {})


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
        """The mean over the samples in which it was in use at all; None without NVML."""
        used = [sample for sample in self._samples if sample]
        return round(statistics.mean(used) / 100, 2) if used else None

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
                _run(name=name, device="cpu", seeds=4, budget=CPU_BUDGET_SECONDS, apart=apart)
                for apart in (True, False)
            ]
            ratios.append(both[1]["cpu_seconds"] / both[0]["cpu_seconds"])
            print(f"{name}: together over one by one {ratios[-1]:.3f}", flush=True)
        rows[name] = {"together_over_one_by_one": statistics.median(ratios)}
    return rows


# --- in a process of its own ----------------------------------------------------------------------


def _run(**given: Any) -> dict[str, Any]:
    """What `_child` returns in a new process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--child", json.dumps(given)],
        cwd=EXPERIMENTS.parent, env=os.environ | ONE_THREAD, capture_output=True, text=True,
        timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{given} ended with {done.returncode}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _child(
    name: str, device: str, seeds: int, budget: float = 0.0, apart: bool = False,
    parameters: dict[str, Any] | None = None, profile: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run some seeds in this process: the seconds, the first seed's result, a profile if wanted."""
    import torch

    torch.set_num_threads(1)
    source = (EXPERIMENTS / f"{name}.py").read_text()
    manifest = read_manifest(source)
    with tempfile.TemporaryDirectory() as folder:
        tasks = [
            Task(
                seed=FIRST_SEED + i, parameters=manifest.resolve(parameters or {}), device=device,
                budget_seconds=budget or manifest.expected_seconds, folder=_folder(folder, i),
            )
            for i in range(seeds)
        ]  # fmt: skip
        alone, together = load_run(source, name), load_run_cohort(source, name)
        one_by_one = apart or (device == "cpu" and seeds == 1)

        def compute() -> list[Any]:
            return [alone(task) for task in tasks] if one_by_one else list(together(tasks))

        if profile:
            return {"profile": _profiled(compute)}
        begun, cpu_begun = time.monotonic(), time.process_time()
        results = compute()
        seconds, cpu_seconds = time.monotonic() - begun, time.process_time() - cpu_begun
    used = torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "gpu_bytes": used, "first": results[0]}


def _folder(parent: str, number: int) -> Path:
    path = Path(parent) / str(number)
    path.mkdir()
    return path


def _profiled(compute: Any) -> dict[str, Any]:
    """Milliseconds by kernel (torch's profiler) and by function (cProfile), the largest first."""
    from torch.profiler import ProfilerActivity, profile

    functions = cProfile.Profile()
    begun = time.monotonic()
    with profile(activities=[ProfilerActivity.CUDA]) as kernels:
        functions.enable()
        compute()
        functions.disable()
    rows = sorted(kernels.key_averages(), key=lambda row: -row.self_device_time_total)
    device = {row.key[:90]: [round(row.self_device_time_total / 1e3, 1), row.count] for row in rows}
    stats = pstats.Stats(functions).stats  # type: ignore[attr-defined]
    host = sorted(((v[2], v[0], f"{Path(k[0]).name}:{k[1]} {k[2]}") for k, v in stats.items()))
    return {
        "wall_ms": round(1e3 * (time.monotonic() - begun)),
        "device_ms": round(sum(ms for ms, _ in device.values())),
        "kernels": dict(list(device.items())[:TOP]),
        "functions": {where: [round(1e3 * s), n] for s, n, where in reversed(host[-TOP:])},
    }


if __name__ == "__main__":
    main()
