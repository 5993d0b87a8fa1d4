"""Run small scripts through the real pool, for tests of run/ and sandbox/."""

from __future__ import annotations

import asyncio
import hashlib
import textwrap
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Literal

from axiom_client.decide.task_run import Environment, TaskFinished, TaskLimits
from axiom_client.run.pool import Pool
from axiom_client.run.spec import PlacedTask, TaskEvent

DEADLINE_SECONDS = 180.0  # a loaded two-core machine; a test that hangs must still end

HEADER = '''"""A small script for tests."""
# /// script
# requires-python = ">=3.11"
# dependencies = [{dependencies}]
#
# [tool.axiom]
# name = "small"
# version = "1.0.0"
# title = "Small"
# question = "Does it run?"
# expected_seconds = 1
# [tool.axiom.result]
# valid = {{ kind = "flag" }}
# configs_done = {{ kind = "integer" }}
# value = {{ dims = 1, max_items = 100000 }}
# ///

'''

LIMITS = TaskLimits(
    memory_bytes=1_000_000_000, disk_bytes=10_000_000, cpu_seconds=120, wall_seconds=170
)

_ids = count(1)


def script(body: str, environment: Environment = "numpy") -> str:
    """A whole experiment with ``body`` inside ``run(task)``; it sets ``value``, a list."""
    dependencies = '"numpy", "torch"' if environment == "torch" else '"numpy"'
    return (
        HEADER.format(dependencies=dependencies)
        + "def run(task):\n    value = []\n"
        + textwrap.indent(textwrap.dedent(body), "    ")
        + "\n    return {'valid': 1, 'configs_done': 1, 'value': [float(v) for v in value]}\n"
    )


def make_spec(
    folder: Path,
    source: str,
    *,
    environment: Environment = "numpy",
    seed: int = 7,
    limits: TaskLimits = LIMITS,
    task_folder: Path | None = None,
) -> PlacedTask:
    """A task spec whose script and folder are in ``folder``."""
    task_id = next(_ids)
    digest = hashlib.sha256(source.encode()).hexdigest()
    path = folder / f"{digest}.py"
    path.write_bytes(source.encode())
    own = task_folder or folder / f"task-{task_id}"
    own.mkdir(exist_ok=True)
    return PlacedTask(
        task_id=task_id,
        experiment="small",
        source_path=str(path),
        sha256=digest,
        environment=environment,
        parameters={},
        seed=seed,
        budget_seconds=1.0,
        limits=limits,
        folder=str(own),
    )


class Recorder:
    """A pool with its events in a list, and waits on them."""

    def __init__(
        self,
        prefer: Literal["warm", "cold"] = "warm",
        *,
        background: bool = False,
        hide_gpus: Mapping[str, str] | None = None,
    ) -> None:
        self.events: list[TaskEvent] = []
        self._news = asyncio.Event()
        self.pool = Pool(
            emit=self._record, prefer=prefer, background=background, hide_gpus=hide_gpus
        )

    def _record(self, event: TaskEvent) -> None:
        self.events.append(event)
        self._news.set()

    def of(self, task_id: int, kind: type[Any]) -> list[Any]:
        """The events of one kind of one task."""
        return [e for e in self.events if isinstance(e, kind) and e.task_id == task_id]

    async def wait(self, task_id: int, kind: type[Any]) -> Any:
        """The first event of a kind."""
        while not (found := self.of(task_id, kind)):
            self._news.clear()
            await self._news.wait()
        return found[0]

    async def finish(self, spec: PlacedTask) -> TaskFinished:
        """Start a task and wait for its end."""
        self.pool.start(spec)
        finished: TaskFinished = await self.wait(spec.task_id, TaskFinished)
        return finished


def with_pool(
    use: Callable[[Recorder], Awaitable[Any]],
    prefer: Literal["warm", "cold"] = "warm",
    *,
    background: bool = False,
    hide_gpus: Mapping[str, str] | None = None,
) -> Any:
    """Run ``use`` with a new pool, which is closed afterwards."""

    async def body() -> Any:
        recorder = Recorder(prefer, background=background, hide_gpus=hide_gpus)
        try:
            return await asyncio.wait_for(use(recorder), DEADLINE_SECONDS)
        finally:
            await recorder.pool.close(0)

    return asyncio.run(body())


def finish(spec: PlacedTask, prefer: Literal["warm", "cold"] = "warm") -> TaskFinished:
    """Run one task through a new pool."""
    finished: TaskFinished = with_pool(lambda recorder: recorder.finish(spec), prefer)
    return finished
