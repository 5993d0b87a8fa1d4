"""Checks on this machine's GPU what the documentation says of GPUs; takes about five minutes.

    python packaging/gpu/prove.py --json gpu-record.json      (make gpu)

Each check prints one line and is recorded with its result. A check that fails does not stop the
others, and makes the exit code 1. ``--device cpu`` tests the script itself without a GPU: checks
that need a GPU are then recorded as not tried.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_commands import ROOT, client, output, wait_for

sys.path.insert(0, str(ROOT))

import msgspec
from gpu_compare import BUDGETS, compare, same_twice
from gpu_project import PROBE, Project

from axiom_client.decide.task_run import TaskFinished, TaskLimits
from axiom_client.host.gpu import vendors
from axiom_client.host.gpu.probe import GpuProbe
from axiom_client.run.spec import TaskStarted
from axiom_protocol.messages import GpuFacts
from tests.support.running import Recorder, make_spec, script, with_pool

#: Attacks by files beside the commands, which need the package installed: not about tasks.
COMMANDS = "tests/attacks/test_current_folder.py"
COHORT = 16  # workunits that the agent runs together
FIRST_KERNEL = """
import time, torch
x = torch.ones(512, 512, device=task.device)
total = (x @ x).sum().item()
at = time.monotonic()
w = torch.ones(64, 64, device=task.device, requires_grad=True)
(w @ w).sum().backward()
value = [at, total == 512.0**3, w.grad.sum().item() == 2 * 64.0**3]
"""
LIMITS = TaskLimits(
    memory_bytes=2_000_000_000, disk_bytes=50_000_000, cpu_seconds=120, wall_seconds=60
)


class NotTried(Exception):
    """The check cannot be made on this machine; the message says why."""


class Record:
    """The checks and their results, in order."""

    def __init__(self, device: str, file: Path | None) -> None:
        self.device, self._file = device, file
        self.checks: list[dict[str, Any]] = []
        self.gpus: list[GpuFacts] = []

    def check(self, name: str, step: Callable[[], Any]) -> Any:
        """Make one check; returns its result, or None when it failed or could not be tried."""
        begun = time.monotonic()
        answer: Any = None
        try:
            answer, state = step(), "ok"
        except NotTried as reason:
            answer, state = str(reason), "not tried"
        except Exception as error:  # noqa: BLE001  recorded; the next check is made
            answer, state = f"{type(error).__name__}: {error}"[-3000:], "FAILED"
        seconds = round(time.monotonic() - begun, 1)
        self.checks.append({"name": name, "state": state, "seconds": seconds, "answer": answer})
        if self._file is not None:  # after each check, so that an interruption loses nothing
            self._file.write_text(json.dumps(self.checks, indent=1, default=str) + "\n")
        shown = json.dumps(answer, default=str)
        print(f"{state:<9} {seconds:6.1f} s  {name}: {shown[:400]}", flush=True)
        return answer if state == "ok" else None

    def gpu(self) -> GpuFacts:
        """The GPU that is tested. Raises NotTried."""
        if not self.gpus:
            raise NotTried("no GPU here")
        return self.gpus[0]

    def spec(self, folder: Path, body: str, limits: TaskLimits = LIMITS, **changes: Any) -> Any:
        """A task on the device under test, ready for a pool."""
        source = script(body, "torch")
        spec = make_spec(folder, source, environment="torch", limits=limits)
        if self.device != "cpu":
            own = [self.gpu()]
            changes |= {"device": vendors.torch_device(own), "driver": vendors.access(own)}
        return msgspec.structs.replace(spec, **changes)


# --- the machine ----------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """The system, the versions, and the GPUs as nvidia-smi lists them."""
    import torch

    from axiom_client.sandbox import landlock

    smi = shutil.which("nvidia-smi")
    listed = (
        output(
            [
                smi,
                "--query-gpu=name,uuid,driver_version,memory.total,compute_cap,"
                "pci.bus_id,mig.mode.current,power.limit",
                "--format=csv",
            ]
        )
        if smi
        else ""
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda_of_torch": torch.version.cuda,
        "numpy": importlib.metadata.version("numpy"),
        "landlock_abi": landlock.abi_version(),
        "user": os.getuid(),
        "nvidia_smi": listed.splitlines(),
        "nodes": sorted(str(p) for p in Path("/dev").glob("nvidia*")),
    }  # fmt: skip


def detection(record: Record) -> Any:
    """The management library and torch agree on the GPU."""
    report = asyncio.run(GpuProbe().report())
    record.gpus = report.gpus
    gpu = record.gpu()
    import torch

    seen = torch.cuda.get_device_properties(0)
    by_torch = {
        "uuid": f"GPU-{seen.uuid}",
        "name": seen.name,
        "compute_capability": f"{seen.major}.{seen.minor}",
        "memory_bytes": seen.total_memory,
    }
    assert gpu.uuid == by_torch["uuid"], (gpu, by_torch)
    assert gpu.name == by_torch["name"], (gpu, by_torch)
    assert gpu.compute_capability == by_torch["compute_capability"], (gpu, by_torch)
    part = seen.total_memory / gpu.memory_bytes
    assert 0.9 < part <= 1.0, (gpu, by_torch)  # the driver keeps a part for itself
    return {"library": msgspec.to_builtins(gpu), "torch": by_torch, "problems": report.problems}


def doctor(record: Record, folder: Path) -> Any:
    """`doctor` confirms every protection, for tasks on cores and on the GPU."""
    report = json.loads(client("doctor", "--json", folder=folder / "doctor"))
    tried = [report, *report["gpus"]]
    missing = [p for one in tried for p in one["protections"] if not p["enforced"]]
    assert not missing, missing
    assert len(report["gpus"]) == len(record.gpus), report
    return {"protections": [len(one["protections"]) for one in tried],
            "problems": report["gpu_problems"]}  # fmt: skip


# --- single tasks ---------------------------------------------------------------------------------


def first_kernel(record: Record, folder: Path) -> Any:
    """Seconds from a task's start to the result of its first kernel: in a new interpreter (cold),
    and forked from a zygote that has imported torch (warm)."""

    def timed(prefer: str) -> list[float]:
        async def several(recorder: Recorder) -> list[float]:
            taken = []
            for _ in range(3):
                spec = record.spec(folder, FIRST_KERNEL)
                begun = time.monotonic()
                finished = await recorder.finish(spec)
                assert finished.outcome == "success", finished.message
                at, product, gradient = finished.result["value"]
                assert product == gradient == 1.0
                taken.append(round(at - begun, 3))
            return taken[1:]  # the first also waits for the zygote

        return with_pool(several, prefer)  # type: ignore[arg-type, no-any-return]

    cold, warm = timed("cold"), timed("warm")
    return {"cold_seconds": cold, "warm_seconds": warm,
            "ratio": round(statistics.median(cold) / statistics.median(warm), 1)}  # fmt: skip


def least_host_memory(record: Record, folder: Path) -> Any:
    """The smallest of some memory limits under which a GPU task runs; the driver needs the rest."""
    limits = (100, 200, 300, 500, 1000)  # MB

    async def run(recorder: Recorder) -> list[TaskFinished]:
        specs = [
            record.spec(
                folder, FIRST_KERNEL,
                msgspec.structs.replace(LIMITS, memory_bytes=limit * 1_000_000),
            )
            for limit in limits
        ]  # fmt: skip
        return [await recorder.finish(spec) for spec in specs]

    ended = with_pool(run)
    worked = {f"{limit} MB": one.outcome for limit, one in zip(limits, ended, strict=True)}
    assert "success" in worked.values(), worked
    return worked


def warm_cores(record: Record, folder: Path) -> Any:
    """On a host with a GPU, CPU tasks still fork from a warm zygote, which has one thread."""
    body = "import torch\nvalue = [torch.ones(3).sum().item(), torch.cuda.is_available()]"
    spec = make_spec(folder, script(body, "torch"), environment="torch", limits=LIMITS)

    async def run(recorder: Recorder) -> TaskFinished:
        return await recorder.finish(spec)

    finished = with_pool(run, hide_gpus=vendors.hidden())
    assert finished.outcome == "success", finished.message
    assert finished.result["value"] == [3.0, 0.0], finished.result
    return {"peak_memory_bytes": finished.peak_memory_bytes}


def out_of_memory(record: Record, folder: Path) -> Any:
    """Exhausting the GPU's memory gives the outcome over_memory and frees all of it afterwards."""
    before = _used_bytes(record)
    finished = _one(_probe_spec(record, folder, "exhaust"))
    assert finished.outcome == "over_memory", (finished.outcome, finished.message)
    line = finished.message.splitlines()[0]
    assert record.device == "cpu" or "GPU" in line, line
    return {"message": line[:300], "used_before_after": [before, _used_bytes(record)]}


def hanging_kernel(record: Record, folder: Path) -> Any:
    """A kernel that never ends is killed at the task's time limit; then the GPU works again."""
    limits = msgspec.structs.replace(LIMITS, wall_seconds=8.0)
    used = _used_bytes(record)
    begun = time.monotonic()
    finished = _one(_probe_spec(record, folder, "hang", limits))
    assert finished.outcome == "timed_out", (finished.outcome, finished.message)
    seconds = round(time.monotonic() - begun, 1)
    again = _one(_probe_spec(record, folder, "compute"))
    assert again.outcome == "success", again.message
    return {"gone_after_seconds": seconds, "again": again.result, "on_gpu": _on_gpu(record),
            "used_before_after": [used, _used_bytes(record)]}  # fmt: skip


def without_tf32(record: Record, folder: Path) -> Any:
    """TF32 is off in tasks: a product of float32 matrices has the precision of float32."""
    body = """
import numpy as np, torch
a, b = task.rng(0).standard_normal((2, 512, 512))
ours = torch.tensor(a, dtype=torch.float32, device=task.device)
ours = ours @ torch.tensor(b, dtype=torch.float32, device=task.device)
exact = a.astype(np.float32).astype(float) @ b.astype(np.float32).astype(float)
value = [float(np.abs(ours.cpu().numpy() - exact).max() / np.abs(exact).max())]
"""
    finished = _one(record.spec(folder, body))
    assert finished.outcome == "success", finished.message
    error = finished.result["value"][0]
    assert error < 1e-5, error  # TF32 would give about 5e-4
    return {"relative_error": error}


# --- attacks --------------------------------------------------------------------------------------


def attacks(record: Record) -> Any:
    """The tests in tests/attacks, confined like a task on the GPU."""
    if record.device == "cpu":
        raise NotTried("make attacks runs them on cores")
    line = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider",
            "-p", "no:benchmark", "tests/attacks", f"--ignore={COMMANDS}"]  # fmt: skip
    if _has("xdist"):
        line += ["-n", "8"]
    done = subprocess.run(
        line, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "AXIOM_ATTACKS_IN": "gpu"},
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-500:]
    failed = re.findall(r"^(?:FAILED|ERROR) (.*)$", done.stdout, re.M)
    assert done.returncode == 0, [last, *failed]
    return last


# --- the whole agent and a real server ------------------------------------------------------------


def through_the_agent(record: Record, project: Project) -> Any:
    """GPU tasks are leased, run confined, reported and credited, by a real agent and server."""
    project.begin()
    project.deploy("compute", 3)
    project.volunteer("run", "--no-display", "--until-idle", "--seconds", "90")
    tasks = json.loads(project.staff("tasks", "--json"))
    outcomes = [task["outcome"] for task in tasks]
    assert outcomes == ["success"] * 3, tasks
    return {"outcomes": outcomes, "review": project.staff("review").strip().splitlines()[:3]}


def shared(record: Record, project: Project) -> Any:
    """Two tasks share one GPU; a pause stops their elapsed time, and afterwards they go on."""
    project.deploy("hold", 2, hold_seconds=25.0)
    project.run_agent()
    wait_for("two running tasks", lambda: len(project.running()) == 2)
    if record.device != "cpu":
        wait_for("both on the GPU", lambda: len(_on_gpu(record)) >= 2)
    both = project.running()
    slots = [task["slot"] for task in both]
    on_gpu = _on_gpu(record)
    project.volunteer("pause")
    wait_for("the pause", lambda: all(t["state"] == "paused" for t in project.running()))
    before = [task["elapsed_seconds"] for task in project.running()]
    time.sleep(3.0)
    after = [task["elapsed_seconds"] for task in project.running()]
    assert all(b - a < 0.5 for a, b in zip(before, after, strict=True)), (before, after)
    project.volunteer("resume")
    wait_for("running again", lambda: all(t["state"] == "running" for t in project.running()))
    return {"slots": slots, "processes_on_gpu": on_gpu, "paused": [before, after]}


def killed_agent(record: Record, project: Project) -> Any:
    """Two seconds after kill -9 of the agent, none of its processes is on the GPU."""
    agent = project._processes[-1]
    children = _descendants(agent.pid)
    assert len(children) > 2, children  # a zygote and two tasks
    os.kill(agent.pid, signal.SIGKILL)
    begun = time.monotonic()
    agent.wait()
    wait_for("the end of its processes", lambda: not any(_alive(pid) for pid in children), 10)
    seconds = round(time.monotonic() - begun, 2)
    left = _on_gpu(record)
    assert not left, left
    return {"processes": len(children), "gone_after_seconds": seconds, "on_gpu": left}


def cohort(record: Record, project: Project) -> Any:
    """The agent runs many workunits of an experiment in one process; each is credited apart."""
    if record.device == "cpu":
        raise NotTried("tests/e2e tries cohorts on cores")
    project.staff("publish", "--skip", "dry-run", str(ROOT / "experiments" / "rank_dynamics.py"))
    sweep = project.folder / "cohort.toml"
    sweep.write_text("[[set]]\nepochs = 200\n")
    words = ["--count", str(COHORT), "--parameters", str(sweep), "--budget", "8", "--gpu"]
    project.staff("hosts", "trust", "1")  # a new account may hold only a few tasks
    project.staff("deploy", "rank_dynamics", *words)
    agent = project.run_agent()
    wait_for("the cohort", lambda: len(project.running()) == COHORT)
    wait_for("its process on the GPU", lambda: _on_gpu(record))
    on_gpu, slots = _on_gpu(record), {task["slot"] for task in project.running()}
    assert len(on_gpu) == 1, on_gpu
    wait_for("the results", lambda: len(_outcomes(project)) == COHORT, 90)
    agent.terminate()
    agent.wait(30)
    tasks = _outcomes(project)
    assert all(task["outcome"] == "success" for task in tasks), tasks
    shares = sorted({round(task["elapsed_seconds"], 3) for task in tasks})
    return {"tasks": COHORT, "slots": sorted(slots), "processes_on_gpu": on_gpu,
            "elapsed_seconds_each": shares}  # fmt: skip


def _outcomes(project: Project) -> list[dict[str, Any]]:
    """The ended tasks of rank_dynamics."""
    tasks = json.loads(project.staff("tasks", "--json", "--most", str(2 * COHORT)))
    return [t for t in tasks if t["experiment"] == "rank_dynamics" and t["outcome"]]


# --- helpers --------------------------------------------------------------------------------------


def _one(spec: Any) -> TaskFinished:
    async def run(recorder: Recorder) -> TaskFinished:
        finished = await recorder.finish(spec)
        assert recorder.of(spec.task_id, TaskStarted) or finished.outcome == "failed"
        return finished

    return with_pool(run)  # type: ignore[no-any-return]


def _probe_spec(record: Record, folder: Path, mode: str, limits: TaskLimits = LIMITS) -> Any:
    spec = record.spec(folder, "value = []", limits)
    source = PROBE.read_bytes()
    path = folder / PROBE.name
    path.write_bytes(source)
    import hashlib

    return msgspec.structs.replace(
        spec, experiment="gpu_probe", source_path=str(path),
        sha256=hashlib.sha256(source).hexdigest(),
        parameters={"mode": mode, "hold_seconds": 5.0},
    )  # fmt: skip


def _used_bytes(record: Record) -> int:
    if record.device == "cpu":
        return 0
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(record.gpu().uuid)
    return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)


def _on_gpu(record: Record) -> list[str]:
    """The processes that nvidia-smi lists on the GPU."""
    if record.device == "cpu":
        return []
    smi = str(shutil.which("nvidia-smi"))
    return output([smi, "--query-compute-apps=pid,used_memory", "--format=csv,noheader"]).split(
        "\n"
    )[:-1]


def _descendants(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _has(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def main() -> int:
    """Make all checks; returns 0 if none failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the record to this file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="*", help="names of the checks to make; default: all")
    parser.add_argument(
        "--experiments", nargs="*", default=list(BUDGETS), metavar="NAME",
        help="those to compare with a core; default: all that use a device",
    )  # fmt: skip
    given = parser.parse_args()
    record = Record("cpu" if given.device == "cpu" else "cuda:0", given.json)
    folder = Path(tempfile.mkdtemp(prefix="axiom-gpu-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user when this is root
    project = Project(folder, given.device == "cuda")
    steps: list[tuple[str, Callable[[], Any]]] = [
        ("machine", machine),
        ("detection", lambda: detection(record)),
        ("doctor", lambda: doctor(record, folder)),
        ("first_kernel", lambda: first_kernel(record, folder)),
        ("least_host_memory", lambda: least_host_memory(record, folder)),
        ("warm_cores", lambda: warm_cores(record, folder)),
        ("float32_is_float32", lambda: without_tf32(record, folder)),
        ("out_of_memory", lambda: out_of_memory(record, folder)),
        ("hanging_kernel", lambda: hanging_kernel(record, folder)),
        ("through_the_agent", lambda: through_the_agent(record, project)),
        ("cohort_through_the_agent", lambda: cohort(record, project)),
        ("shared_and_paused", lambda: shared(record, project)),
        ("killed_agent", lambda: killed_agent(record, project)),
        ("attacks", lambda: attacks(record)),
        ("same_twice", lambda: same_twice(record.device)),
        ("experiments_agree", lambda: compare(record.device, given.experiments)),
    ]
    begun = time.monotonic()
    try:
        for name, step in steps:
            if not given.only or name in given.only:
                record.check(name, step)
    finally:
        project.end()
        shutil.rmtree(folder, ignore_errors=True)
    failed = [check["name"] for check in record.checks if check["state"] == "FAILED"]
    print(f"{len(record.checks)} checks in {time.monotonic() - begun:.0f} s; "
          f"failed: {', '.join(failed) or 'none'}")  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
