"""How much memory a running torch task takes of its own, forked and cold.

    python -m benchmarks.task_memory

50 children that have trained a small MLP with Adam stay alive while they are measured: USS is what
would be freed if one of them ended (psutil, from /proc/PID/smaps). ``gib_at_240`` is the zygote's
own memory and 240 children's, as on a 240-core host.
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


class Herd:
    """Children that have trained and now stay."""

    def __init__(self, pool_is_warm: bool) -> None:
        self.pids: dict[int, int] = {}
        self.closing = False
        self.failure = ""  # of the first child that ended; it would be waited for without end
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
            self.failure = self.failure or f"a child ended: {event.outcome}: {event.message}"
        self._changed.set()

    async def train(self, specs: list[PlacedTask]) -> None:
        """Start them all and wait until each has trained."""
        for spec in specs:
            self.pool.start(spec)
        while len(self._trained) < len(specs):
            self._changed.clear()
            await self._changed.wait()
            if self.failure:
                raise RuntimeError(self.failure)


async def measure_herd(folder: Path, count: int, *, warm: bool) -> tuple[float, float]:
    """(bytes of its own of one child, bytes of the zygote)."""
    herd = Herd(warm)
    try:
        await herd.train([make_spec(folder, script(TRAIN)) for _ in range(count)])
        own = [float(psutil.Process(pid).memory_full_info().uss) for pid in herd.pids.values()]
        zygotes = sum(psutil.Process(p).memory_info().rss for p in herd.pool.zygote_pids().values())
    finally:
        herd.closing = True
        await herd.pool.close(0)
    return sum(own) / len(own), float(zygotes)


async def measure() -> None:
    """Interleave warm and cold herds; print the medians."""
    warm, cold, zygote = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(ROUNDS):
            own, shared = await measure_herd(Path(scratch), CHILDREN, warm=True)
            warm.append(own)
            zygote.append(shared)
            cold.append((await measure_herd(Path(scratch), COLD, warm=False))[0])
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
