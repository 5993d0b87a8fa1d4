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
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402

from axiom_client.decide.task_run import TaskFinished, TaskLimits  # noqa: E402
from axiom_client.host.gpu import vendors  # noqa: E402
from axiom_client.host.gpu.probe import GpuProbe  # noqa: E402
from axiom_client.run.spec import TaskStarted  # noqa: E402
from axiom_protocol.agreement import disagreements  # noqa: E402
from axiom_protocol.manifest import Manifest, read_manifest  # noqa: E402
from axiom_protocol.messages import GpuFacts  # noqa: E402
from axiom_protocol.result import gate  # noqa: E402
from tests.support.running import Recorder, make_spec, script, with_pool  # noqa: E402

PROBE = Path(__file__).with_name("gpu_probe.py")
#: Nominal seconds for each experiment. Its default plan would take too long on a GPU that computes
#: one seed at a time; these budgets still cover every arm and control at the plan's start.
BUDGETS = {
    "rank_dynamics": 5.0, "catapult_phase": 1.0, "double_descent_v2": 1.0,
    "feature_learning_phase": 1.0, "progressive_sharpening": 2.0, "rank_lottery": 1.0,
    "sam_vs_sgd_v2": 2.0, "activation_functions": 1.0, "edge_of_chaos": 1.0, "grokking": 1.0,
    "simplicity_bias": 1.0,
}  # fmt: skip
#: Attacks by files beside the commands, which need the package installed: not about tasks.
COMMANDS = "tests/attacks/test_current_folder.py"
COHORT = 16  # workunits that the agent runs together
SEEDS = (501, 502, 503)
Job = tuple[str, str, tuple[int, ...]]  # experiment, device, seeds
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
        _output(
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
    report = json.loads(_client("doctor", "--json", folder=folder / "doctor"))
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


def same_twice(record: Record) -> Any:
    """Two runs of one seed on this device give the same numbers, bit for bit."""
    alone: Job = ("rank_dynamics", record.device, (601,))
    together: Job = ("rank_dynamics", record.device, (601, 602))
    runs = _experiment_runs([alone, alone, together, together])
    assert runs[0]["results"] == runs[1]["results"], "two runs differ"
    assert runs[2]["results"] == runs[3]["results"], "two runs of a cohort differ"
    return "equal"


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


class Project:
    """A server and an agent as processes, with all their files in one folder."""

    def __init__(self, folder: Path, gpu: bool) -> None:
        self.folder, self.gpu = folder, gpu
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._processes: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        """Publish the probe, start the server, attach the agent."""
        self.staff("init", str(self.folder / "project"))
        probe = self.folder / PROBE.name
        probe.write_text(
            PROBE.read_text()
            if self.gpu
            else PROBE.read_text().replace("# gpus = 1\n# gpu_share = 0.5\n", "")
        )
        self.staff("publish", "--skip", "dry-run", str(probe))
        self._start("axiom_server", "serve", "--port", str(self.port))
        _wait("the server", self._answers)
        self.volunteer("attach", f"http://127.0.0.1:{self.port}")

    def deploy(self, mode: str, count: int, hold_seconds: float = 20.0) -> None:
        """Deploy workunits of the probe in this mode."""
        sweep = self.folder / f"{mode}.toml"
        sweep.write_text(f'[[set]]\nmode = "{mode}"\nhold_seconds = {hold_seconds}\n')
        device = ["--gpu"] if self.gpu else []
        self.staff(
            "deploy", "gpu_probe", "--count", str(count), "--parameters", str(sweep), *device
        )

    def staff(self, *words: str) -> str:
        """Run a command of axiom-server."""
        return _command("axiom_server", words, self._environment())

    def volunteer(self, *words: str) -> str:
        """Run a command of axiom-client."""
        return _command("axiom_client", words, self._environment())

    def run_agent(self) -> subprocess.Popen[bytes]:
        """Start the agent in the background."""
        return self._start("axiom_client", "run", "--no-display")

    def status(self) -> dict[str, Any]:
        """The agent's snapshot."""
        return dict(json.loads(self.volunteer("status", "--json")))

    def running(self) -> list[dict[str, Any]]:
        """Its running and paused tasks."""
        return [t for t in self.status()["tasks"] if t["state"] in ("running", "paused")]

    def end(self) -> None:
        """Stop all processes that were started."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _start(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{module}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *words],
                env=self._environment(), stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def _answers(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _environment(self) -> dict[str, str]:
        return {
            **_environment(),
            "AXIOM_SERVER_DIR": str(self.folder / "project"),
            "AXIOM_CLIENT_DIR": str(self.folder / "agent"),
        }


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
    _wait("two running tasks", lambda: len(project.running()) == 2)
    if record.device != "cpu":
        _wait("both on the GPU", lambda: len(_on_gpu(record)) >= 2)
    both = project.running()
    slots = [task["slot"] for task in both]
    on_gpu = _on_gpu(record)
    project.volunteer("pause")
    _wait("the pause", lambda: all(t["state"] == "paused" for t in project.running()))
    before = [task["elapsed_seconds"] for task in project.running()]
    time.sleep(3.0)
    after = [task["elapsed_seconds"] for task in project.running()]
    assert all(b - a < 0.5 for a, b in zip(before, after, strict=True)), (before, after)
    project.volunteer("resume")
    _wait("running again", lambda: all(t["state"] == "running" for t in project.running()))
    return {"slots": slots, "processes_on_gpu": on_gpu, "paused": [before, after]}


def killed_agent(record: Record, project: Project) -> Any:
    """Two seconds after kill -9 of the agent, none of its processes is on the GPU."""
    agent = project._processes[-1]
    children = _descendants(agent.pid)
    assert len(children) > 2, children  # a zygote and two tasks
    os.kill(agent.pid, signal.SIGKILL)
    begun = time.monotonic()
    agent.wait()
    _wait("the end of its processes", lambda: not any(_alive(pid) for pid in children), 10)
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
    _wait("the cohort", lambda: len(project.running()) == COHORT)
    _wait("its process on the GPU", lambda: _on_gpu(record))
    on_gpu, slots = _on_gpu(record), {task["slot"] for task in project.running()}
    assert len(on_gpu) == 1, on_gpu
    _wait("the results", lambda: len(_outcomes(project)) == COHORT, 90)
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


# --- experiments ----------------------------------------------------------------------------------


def experiments(record: Record, names: Sequence[str]) -> Any:
    """Each experiment on three seeds: its results on this device and on a core agree by field.

    On a GPU, an experiment that supports cohorts runs the three seeds together, and one alone.
    """
    manifests = {
        name: read_manifest((ROOT / "experiments" / f"{name}.py").read_text()) for name in names
    }
    jobs: list[Job] = [(name, "cpu", (seed,)) for name in names for seed in SEEDS]
    for name, manifest in manifests.items():
        single = SEEDS[:1] if manifest.cohort else SEEDS
        jobs += [(name, record.device, (seed,)) for seed in single]
        jobs += [(name, record.device, SEEDS)] if manifest.cohort else []
    runs = dict(zip(jobs, _experiment_runs(jobs), strict=True))
    answers = {name: _compared(name, manifests[name], record.device, runs) for name in names}
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
        cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    if done.returncode:
        return {"error": done.stderr[-500:]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


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
    return _output([smi, "--query-compute-apps=pid,used_memory", "--format=csv,noheader"]).split(
        "\n"
    )[:-1]


def _environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def _client(*words: str, folder: Path) -> str:
    return _command("axiom_client", words, {**_environment(), "AXIOM_CLIENT_DIR": str(folder)})


def _command(module: str, words: tuple[str, ...], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", module, *words],
        env=environment, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{words} -> {done.returncode}: {done.stdout}{done.stderr}"[-2000:]
    return done.stdout


def _output(line: list[Any]) -> str:
    return subprocess.run(line, capture_output=True, text=True, timeout=30, check=True).stdout


def _wait(what: str, ready: Callable[[], Any], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)


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
        ("same_twice", lambda: same_twice(record)),
        ("experiments_agree", lambda: experiments(record, given.experiments)),
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
