"""Where the time of a task's start, of a new volunteer's first task, and of an idle minute goes.

Timestamps are those of the agent's recorded events and of the tasks themselves, on the host's
monotonic clock.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import load
from benchmarks.agent_idle import Usage, agent_environment, pss_bytes, start_agent, stop
from benchmarks.first_task import DEPENDENCIES, EXPERIMENT
from benchmarks.peers.tasks import experiment_source
from benchmarks.results import table

NOOPS = 300
FORKS = 200
IDLE_SETTLE_SECONDS, IDLE_SECONDS = 25.0, 30.0

#: What a floor costs: a fork of a process that has numpy, which exits at once.
FORK = """
import os, sys, time
import numpy
began = time.perf_counter()
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
print((time.perf_counter() - began) / int(sys.argv[1]))
"""
IMPORT_TORCH = """
import time
began = time.perf_counter()
import torch
imported = time.perf_counter()
torch.optim.Adam(torch.nn.Linear(2, 2).parameters())
print(imported - began, time.perf_counter() - imported)
"""

#: Imported one after the other in a new interpreter, for the memory of an idle agent.
LIBRARIES = (
    "asyncio", "msgspec", "psutil", "sqlite3", "ssl", "axiom_client.project.slim_httpx",
    "axiom_client.agent.loop", "axiom_client.cli.run",
)  # fmt: skip
MEMORY = """
import sys
def pss():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(l.split()[1]) for l in file if l.startswith("Pss:"))
before = pss()
print("Python itself", before)
for name in sys.argv[1:]:
    __import__(name)
    after = pss()
    print(name, after - before)
    before = after
"""


@contextmanager
def project() -> Iterator[tuple[Path, int, Path]]:
    """A project with the experiments of these profiles, served; and a scratch folder."""
    with load.project() as folder, tempfile.TemporaryDirectory(prefix="axiom-bench-") as name:
        scratch, scripts = Path(name), []
        for environment, dependencies in DEPENDENCIES.items():
            scripts.append(scratch / f"first_{environment}.py")
            scripts[-1].write_text(
                EXPERIMENT.format(environment=environment, dependencies=dependencies)
            )
        scripts.append(scratch / "noop.py")
        scripts[-1].write_text(experiment_source("noop"))
        load.staff(folder, "publish", "--skip", "dry-run", *map(str, scripts))
        with load.serving(folder) as port:
            yield folder, port, scratch


def run_agent(folder: Path, *words: str) -> None:
    """Run a command of the agent to its end."""
    subprocess.run(
        [sys.executable, "-m", "axiom_client", *words], env=agent_environment(folder),
        stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip


def recorded(folder: Path) -> list[dict[str, Any]]:
    """The events of `run --until-idle`."""
    events = folder.with_suffix(f".{time.monotonic_ns()}")
    run_agent(folder, "run", "--until-idle", "--no-display", "--record-events", str(events))
    return [msgspec.json.decode(line) for line in events.read_bytes().splitlines()]


def first_of(events: Sequence[dict[str, Any]], kind: str, needs: str = "") -> float:
    """When the first event of a kind happened; with ``needs``, whose text contains this."""
    return next(
        float(event["now"]) for event in events
        if event["type"] == kind and (not needs or needs in json.dumps(event))
    )  # fmt: skip


def first_task(folder: Path, port: int, scratch: Path) -> list[tuple[str, float]]:
    """Seconds of each phase from `attach` to the first line of a torch task."""
    load.staff(folder, "deploy", "first_torch", "--count", "1", "--budget", "1")
    agent = scratch / "first"
    began = time.monotonic()
    run_agent(agent, "attach", f"http://127.0.0.1:{port}")
    attached = time.monotonic()
    events = recorded(agent)
    times = [
        ("attach: the command", began),
        ("run: until the agent has read its journal", attached),
        ("probe the host", first_of(events, "AgentStarted")),
        ("sync, until work is granted", first_of(events, "FactsProbed")),
        ("fetch and verify the experiment", first_of(events, "SyncAnswered", '"task_id"')),
        ("start the zygote and the task", first_of(events, "BundleFetched")),
        ("the task, until its first line", first_of(events, "TaskStarted")),
        ("", first_of(events, "TaskProgressed")),
    ]
    phases = [(label, later - at) for (label, at), (_, later) in itertools.pairwise(times)]
    return [*phases, ("together", times[-1][1] - began)]


def task_start(folder: Path, port: int, scratch: Path) -> list[tuple[str, list[float]]]:
    """Milliseconds of each part of the gap between two no-ops on a slot."""
    load.staff(folder, "deploy", "noop", "--count", str(NOOPS), "--budget", "1")
    agent = scratch / "starts"
    join = [sys.executable, "-m", "axiom_client", "attach", f"http://127.0.0.1:{port}"]
    load.join_and_vouch(folder, join, agent_environment(agent))
    events = recorded(agent)
    ends = {e["finished"]["task_id"]: e for e in events if e["type"] == "TaskEnded"}
    starts = {e["task_id"]: float(e["now"]) for e in events if e["type"] == "TaskStarted"}
    noticed, begun, waited = [], [], []
    slots: list[float] = []
    for task_id, at in sorted(starts.items(), key=lambda item: item[1]):
        result = ends[task_id]["finished"]["result"]
        begun.append(1000 * (result["began"] - at))
        if len(slots) >= (os.cpu_count() or 1):
            waited.append(1000 * (at - slots.pop(0)))
        slots = sorted([*slots, float(ends[task_id]["now"])])
        noticed.append(1000 * (float(ends[task_id]["now"]) - result["ended"]))
    return [
        ("last line of a task, until the agent knows that it ended", noticed),
        ("until the agent knows that the next one was forked", waited),
        ("until the first line of the next one (negative: it ran before)", begun),
    ]


def floors() -> list[tuple[str, float]]:
    """What cannot be less with these means, in milliseconds."""
    fork = _output(FORK, str(FORKS))
    torch, optimizer = map(float, _output(IMPORT_TORCH).split())
    return [
        ("fork and exit of a process with numpy", 1000 * float(fork)),
        ("import torch", 1000 * torch),
        ("the first optimizer, which imports more of torch", 1000 * optimizer),
    ]


def _output(code: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(load.ROOT)},
    )  # fmt: skip
    return done.stdout.strip()


def idle(port: int, scratch: Path) -> tuple[list[tuple[str, float]], list[tuple[str, int]]]:
    """An idle agent: (figure, value), and (library, KiB that it adds to a new interpreter)."""
    agent = scratch / "idle"
    run_agent(agent, "attach", f"http://127.0.0.1:{port}")
    process, _ = start_agent(agent)
    try:
        time.sleep(IDLE_SETTLE_SECONDS)
        before = Usage(process.pid)
        time.sleep(IDLE_SECONDS)
        after = Usage(process.pid)
        memory = [pss_bytes(p.pid) / 2**20 for p in after.tree]
    finally:
        stop(process, signal.SIGTERM)
    minutes = (after.at - before.at) / 60
    figures = [
        ("memory (PSS) of the agent, MiB", memory[0]),
        (
            "... of its zygote, which ends after two idle minutes, MiB",
            sum(memory[1:]),
        ),
        ("processor time, s a minute", (after.cpu_seconds - before.cpu_seconds) / minutes),
        ("wakeups a minute", (after.switches - before.switches) / minutes),
    ]
    lines = (line.rsplit(" ", 1) for line in _output(MEMORY, *LIBRARIES).splitlines())
    return figures, [(name, int(kib)) for name, kib in lines]


def tables() -> str:
    """The tables in Markdown."""
    with project() as (folder, port, scratch):
        idle_figures, memory = idle(port, scratch)
        first = first_task(folder, port, scratch)
        starts = task_start(folder, port, scratch)
    parts = [
        table(
            ["a task's start (no-op, all cores busy)", "p50, ms", "p99, ms"],
            [[label, f"{statistics.median(v):.1f}", f"{sorted(v)[len(v) * 99 // 100]:.1f}"]
             for label, v in starts],
        ),
        table(["floor", "ms"], [[label, f"{value:.1f}"] for label, value in floors()]),
        table(["a new volunteer's first torch task", "s"],
              [[label, f"{value:.2f}"] for label, value in first]),
        table(["an idle agent", ""], [[label, f"{value:.3f}"] for label, value in idle_figures]),
        table(["memory of a new interpreter after each import", "KiB more"],
              [[label, f"{value:,}"] for label, value in memory]),
    ]  # fmt: skip
    return "\n\n".join(parts)
