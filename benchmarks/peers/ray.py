"""Ray on one machine, with a new worker process for each task (`max_calls=1`)."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import time
from typing import Any

from benchmarks import load
from benchmarks.peers.driver import Driver, Outcome
from benchmarks.peers.tasks import read_spans, record


class Ray(Driver):
    """`ray.init` without the dashboard; its scheduler and store run on the host itself."""

    name = "Ray"
    isolation = "a process for each task, not confined"
    install = "pip install -c constraints.txt -e '.[bench]'"
    _remote: Any = None

    @classmethod
    def version(cls) -> str:
        """The version of `ray`."""
        return importlib.metadata.version("ray") if importlib.util.find_spec("ray") else ""

    def start_host(self) -> None:
        """Start Ray's processes."""
        import ray

        os.environ["PYTHONPATH"] = str(load.ROOT)
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init(num_cpus=self.slots, include_dashboard=False, log_to_driver=False,
                 logging_level="error")  # fmt: skip
        self._remote = ray.remote(max_calls=1, num_cpus=1)(record)

    def stop_host(self) -> None:
        """Stop Ray's processes."""
        import ray

        ray.shutdown()
        self._remote = None

    def run(self, work: str, count: int) -> Outcome:
        """Submit the tasks, and wait for them in the order of their completion."""
        import ray

        if self._remote is None:
            self.start_host()
        spans = self.folder / f"spans-{time.monotonic_ns()}"
        waiting = [self._remote.remote(work, i, str(spans)) for i in range(count)]
        received = []
        while waiting:
            (ready,), waiting = ray.wait(waiting, num_returns=1)
            ray.get(ready)
            received.append(time.monotonic())
        return Outcome(spans=read_spans(spans), received=received)

    def close(self) -> None:
        """Stop everything."""
        self.stop_host()


DRIVER = Ray
