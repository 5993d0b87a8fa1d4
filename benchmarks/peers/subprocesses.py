"""Plain subprocesses: one `python -m benchmarks.peers.tasks` for each task."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import time

from benchmarks import load
from benchmarks.peers.driver import Driver, Outcome
from benchmarks.peers.tasks import read_spans


class Subprocesses(Driver):
    """As many interpreters at once as there are slots."""

    name = "subprocesses"
    isolation = "a process for each task, not confined"
    install = "part of Python"

    @classmethod
    def version(cls) -> str:
        """Python's version."""
        return f"Python {platform.python_version()}"

    def run(self, work: str, count: int) -> Outcome:
        """Start one interpreter for each task."""
        spans = self.folder / f"spans-{time.monotonic_ns()}"
        received = asyncio.run(self._run(work, count, str(spans)))
        return Outcome(spans=read_spans(spans), received=sorted(received))

    async def _run(self, work: str, count: int, spans: str) -> list[float]:
        numbers = iter(range(count))
        received: list[float] = []

        async def slot() -> None:
            for index in numbers:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "benchmarks.peers.tasks", work, str(index), spans,
                    env={**os.environ, "PYTHONPATH": str(load.ROOT)},
                )  # fmt: skip
                if await process.wait() != 0:
                    raise RuntimeError(f"task {index} failed")
                received.append(time.monotonic())

        await asyncio.gather(*(slot() for _ in range(self.slots)))
        return received


DRIVER = Subprocesses
