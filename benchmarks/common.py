"""Shared by the benchmarks: the report line, and running tasks through the real pool."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from axiom_client.decide.task_run import Environment, TaskFinished, TaskLimits
from axiom_client.run.pool import Pool
from axiom_client.run.spec import PlacedTask, TaskEvent

LIMITS = TaskLimits(
    memory_bytes=2_000_000_000, disk_bytes=10_000_000, cpu_seconds=600, wall_seconds=3600
)

HEADER = """# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "torch"]
#
# [tool.axiom]
# name = "bench"
# version = "1.0.0"
# title = "A task for a benchmark"
# question = "How long does it take?"
# expected_seconds = 1
# [tool.axiom.result]
# valid = { kind = "flag" }
# configs_done = { kind = "integer" }
# value = { dims = 1 }
# ///
"""

_ids = count(1)


def report(name: str, figures: Mapping[str, Any], baseline: Mapping[str, Any]) -> None:
    """Print the line of JSON with which a benchmark ends."""
    rounded = {key: round(v, 4) if isinstance(v, float) else v for key, v in figures.items()}
    print(json.dumps({"benchmark": name, "figures": rounded, "baseline": dict(baseline)}))


def median(values: list[float]) -> float:
    """The median over the rounds."""
    return statistics.median(values)


def script(body: str) -> str:
    """The source of an experiment that runs ``body``; it may set ``value``, a list of numbers."""
    lines = "".join(f"    {line}\n" for line in ["value = []", *body.strip().splitlines()])
    tail = "    return {'valid': 1, 'configs_done': 1, 'value': [float(v) for v in value]}\n"
    return f"{HEADER}\ndef run(task):\n{lines}{tail}"


def make_spec(folder: Path, source: str, environment: Environment = "torch") -> PlacedTask:
    """A task of this script with a new folder."""
    task_id = next(_ids)
    digest = hashlib.sha256(source.encode()).hexdigest()
    path = folder / f"{digest}.py"
    if not path.exists():
        path.write_text(source)
    own = folder / f"task-{task_id}"
    own.mkdir()
    return PlacedTask(
        task_id=task_id,
        experiment="bench",
        source_path=str(path),
        sha256=digest,
        environment=environment,
        parameters={},
        seed=task_id,
        budget_seconds=1.0,
        limits=LIMITS,
        folder=str(own),
    )


class Runner:
    """Runs tasks through the real pool, at normal priority so that a busy machine runs them."""

    def __init__(self, on_event: Callable[[TaskEvent], None] | None = None) -> None:
        self._waiting: dict[int, asyncio.Future[TaskFinished]] = {}
        self._on_event = on_event
        self.pool = Pool(emit=self._handle, background=False)

    def _handle(self, event: TaskEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)
        if isinstance(event, TaskFinished):
            self._waiting.pop(event.task_id).set_result(event)

    def start(self, spec: PlacedTask) -> asyncio.Future[TaskFinished]:
        """Start a task; the future gives its end."""
        future: asyncio.Future[TaskFinished] = asyncio.get_running_loop().create_future()
        self._waiting[spec.task_id] = future
        self.pool.start(spec)
        return future

    async def run(self, spec: PlacedTask) -> TaskFinished:
        """Run a task that must succeed."""
        finished = await self.start(spec)
        if finished.outcome != "success":
            raise RuntimeError(f"{finished.outcome}: {finished.message}")
        return finished


@contextmanager
def one_core() -> Iterator[None]:
    """Run everything that is started inside on a single core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
