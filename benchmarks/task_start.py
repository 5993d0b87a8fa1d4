"""Measures the CPU time to start and reap one confined torch task, against a cold import of torch.

    python -m benchmarks.task_start

Both run on one core. The time of a warm task includes the agent's part, the zygote's fork, the
child's confinement, an experiment of one training step, its report and its end. The rate is tasks
per second of CPU time, summed over the three processes, so that other load does not count;
``tasks_per_wall_second`` is the rate by wall time.
"""

from __future__ import annotations

import asyncio
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from axiom_client.sandbox import launch
from benchmarks.common import Runner, make_spec, median, one_core, report, script

ROUNDS = 7
TASKS_PER_ROUND = 40
IN_FLIGHT = 2  # one runs while the next is being prepared, as on a busy slot

ONE_STEP = """
import torch
net = torch.nn.Linear(8, 2)
loss = net(torch.ones(4, 8)).sum()
loss.backward()
value = [loss.item()]
"""


def cold_import_seconds() -> float:
    """CPU seconds of ``python -c 'import torch'`` with one thread."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import torch"], env=launch.environment({}), check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def warm_round(runner: Runner, folder: Path) -> tuple[float, float]:
    """CPU and wall seconds of one task, as the mean over a round of tasks."""
    source = script(ONE_STEP)
    zygote = psutil.Process(runner.pool.zygote_pids()["torch"])
    specs = [make_spec(folder, source) for _ in range(TASKS_PER_ROUND)]
    wall, own, forks = time.perf_counter(), time.process_time(), _cpu(zygote)
    pending, children = set(), 0.0
    for spec in specs:
        pending.add(asyncio.ensure_future(runner.run(spec)))
        if len(pending) >= IN_FLIGHT:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            children += sum(
                t.result().cpu_user_seconds + t.result().cpu_system_seconds for t in done
            )
    for finished in await asyncio.gather(*pending):
        children += finished.cpu_user_seconds + finished.cpu_system_seconds
    cpu = children + time.process_time() - own + _cpu(zygote) - forks
    return cpu / TASKS_PER_ROUND, (time.perf_counter() - wall) / TASKS_PER_ROUND


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def measure() -> None:
    """Measure cold imports and rounds of warm tasks in turn; print the medians."""
    import importlib.metadata

    warm, cold, wall = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        runner = Runner()
        try:
            await runner.run(make_spec(folder, script(ONE_STEP)))  # the zygote has started
            for _ in range(ROUNDS):
                cold.append(cold_import_seconds())
                cpu, clock = await warm_round(runner, folder)
                warm.append(cpu)
                wall.append(clock)
        finally:
            await runner.pool.close(0)
    report(
        "task_start",
        {
            "cpu_ratio": median(cold) / median(warm),
            "tasks_per_second": 1 / median(warm),
            "tasks_per_wall_second": 1 / median(wall),
            "warm_cpu_ms": 1000 * median(warm),
        },
        {
            "name": "cold python -c 'import torch'",
            "torch": importlib.metadata.version("torch"),
            "python": platform.python_version(),
            "cold_cpu_ms": round(1000 * median(cold), 1),
        },
    )


if __name__ == "__main__":
    with one_core():
        asyncio.run(measure())
