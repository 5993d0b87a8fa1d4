"""concurrent.futures: a process pool whose workers end after one task."""

from __future__ import annotations

import platform
import time
from concurrent.futures import Future, ProcessPoolExecutor

from benchmarks.peers.driver import Driver, Outcome
from benchmarks.peers.tasks import read_spans, record


class Futures(Driver):
    """A new process for each task, started by `spawn` as `max_tasks_per_child` requires."""

    name = "concurrent.futures"
    isolation = "a process for each task, not confined"
    install = "part of Python"

    @classmethod
    def version(cls) -> str:
        """Python's version."""
        return f"Python {platform.python_version()}"

    def run(self, work: str, count: int) -> Outcome:
        """Run the tasks in a new pool."""
        spans = self.folder / f"spans-{time.monotonic_ns()}"
        received: list[float] = []

        def on_done(future: Future[float]) -> None:
            future.result()
            received.append(time.monotonic())

        with ProcessPoolExecutor(self.slots, max_tasks_per_child=1) as pool:
            futures = [pool.submit(record, work, i, str(spans)) for i in range(count)]
            for future in futures:
                future.add_done_callback(on_done)
        for future in futures:
            future.result()
        return Outcome(spans=read_spans(spans), received=sorted(received))


DRIVER = Futures
