"""Measures the memory that a running torch task does not share, forked and cold.

    python -m benchmarks.task_memory

50 children that have trained a small MLP with Adam stay alive while they are measured. USS is the
memory that would be freed if one of them ended (psutil, from /proc/PID/smaps). ``gib_at_240`` is
the memory of the zygote and of 240 children, as on a 240-core host.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import tempfile
from pathlib import Path

import psutil

from axiom_client.run.pool import Pool
from axiom_client.run.spec import PlacedTask, TaskEvent, TaskProgressed, TaskStarted
from benchmarks.common import make_spec, median, report, script

ROUNDS = 3  # each takes over a minute of a shared core: 50 children train, and three cold ones
CHILDREN = 50
COLD = 3
HOST_CORES = 240

TRAIN = """
import time
import torch
rng = task.rng(0)
x = torch.from_numpy(rng.standard_normal((256, 20))).float()
y = torch.from_numpy(rng.integers(0, 3, 256))
net = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
for _ in range(100):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
value = [loss.item()]
task.progress(0.9)
time.sleep(3600)
"""


class TrainedTasks:
    """Tasks that have trained and stay alive."""

    def __init__(self, pool_is_warm: bool) -> None:
        self.pids: dict[int, int] = {}
        self.closing = False
        self.failure = ""  # of the first task that ended, for which `train` would wait for ever
        self._trained: set[int] = set()
        self._changed = asyncio.Event()
        self.pool = Pool(
            emit=self._on_event, prefer="warm" if pool_is_warm else "cold", background=False
        )

    def _on_event(self, event: TaskEvent) -> None:
        if isinstance(event, TaskStarted):
            self.pids[event.task_id] = event.pid
        elif isinstance(event, TaskProgressed):
            self._trained.add(event.task_id)
        elif not self.closing:
            self.failure = self.failure or f"a task ended: {event.outcome}: {event.message}"
        self._changed.set()

    async def train(self, specs: list[PlacedTask]) -> None:
        """Start all tasks and wait until each has trained."""
        for spec in specs:
            self.pool.start(spec)
        while len(self._trained) < len(specs):
            self._changed.clear()
            await self._changed.wait()
            if self.failure:
                raise RuntimeError(self.failure)


async def measure_tasks(folder: Path, count: int, *, warm: bool) -> tuple[float, float]:
    """The mean USS of ``count`` tasks, and the resident memory of the zygote, in bytes."""
    tasks = TrainedTasks(warm)
    try:
        await tasks.train([make_spec(folder, script(TRAIN)) for _ in range(count)])
        own = [float(psutil.Process(pid).memory_full_info().uss) for pid in tasks.pids.values()]
        zygotes = [psutil.Process(p) for p in tasks.pool.zygote_pids().values()]
        zygote_bytes = sum(zygote.memory_info().rss for zygote in zygotes)
    finally:
        tasks.closing = True
        await tasks.pool.close(0)
    return sum(own) / len(own), float(zygote_bytes)


async def measure() -> None:
    """Measure forked and cold tasks in turn; print the medians."""
    warm, cold, zygote = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(ROUNDS):
            own, shared = await measure_tasks(Path(scratch), CHILDREN, warm=True)
            warm.append(own)
            zygote.append(shared)
            cold.append((await measure_tasks(Path(scratch), COLD, warm=False))[0])
    report(
        "task_memory",
        {
            "uss_mib_per_task": median(warm) / 2**20,
            "ratio": median(cold) / median(warm),
            "gib_at_240": (median(zygote) + HOST_CORES * median(warm)) / 2**30,
            "zygote_mib": median(zygote) / 2**20,
        },
        {
            "name": "cold python that imports torch and trains the same",
            "torch": importlib.metadata.version("torch"),
            "python": platform.python_version(),
            "uss_mib_per_task": round(median(cold) / 2**20, 1),
        },
    )


if __name__ == "__main__":
    asyncio.run(measure())
