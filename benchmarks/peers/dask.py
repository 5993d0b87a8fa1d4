"""Dask distributed: a scheduler, and a worker with its nanny for each slot."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import load
from benchmarks.peers.driver import Driver, Outcome
from benchmarks.peers.tasks import read_spans, record

STOP_SECONDS = 30.0


class Dask(Driver):
    """One thread for each worker process, which all its tasks share."""

    name = "Dask distributed"
    isolation = "none: a worker process runs one task after the other"
    install = "pip install -c constraints.txt -e '.[bench]'"

    def __init__(self, folder: Path, slots: int) -> None:
        super().__init__(folder, slots)
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._client: Any = None
        self._address = ""

    @classmethod
    def version(cls) -> str:
        """The version of `distributed`."""
        if importlib.util.find_spec("distributed") is None:
            return ""
        return importlib.metadata.version("distributed")

    def start_server(self) -> None:
        """Start the scheduler, and connect to it."""
        from distributed import Client

        port = load.free_port()
        self._address = f"tcp://127.0.0.1:{port}"
        self._scheduler = _start(
            "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"
        )
        self._client = Client(self._address, timeout=60)

    def start_host(self) -> None:
        """Start the workers."""
        self._worker = _start(
            "worker", self._address, "--nanny", "--no-dashboard", "--nthreads", "1",
            "--nworkers", str(self.slots), "--local-directory", str(self.folder),
        )  # fmt: skip

    def stop_host(self) -> None:
        """Stop the workers."""
        _stop(self._worker)
        self._worker = None

    def run(self, work: str, count: int) -> Outcome:
        """Submit the tasks, and wait for them in the order of their completion."""
        from distributed import as_completed

        if self._worker is None:
            self.start_host()
        spans = self.folder / f"spans-{time.monotonic_ns()}"
        futures = self._client.map(
            record, [work] * count, range(count), [str(spans)] * count, pure=False
        )
        received = []
        for _, _ in as_completed(futures, with_results=True):
            received.append(time.monotonic())
        return Outcome(spans=read_spans(spans), received=received)

    def close(self) -> None:
        """Stop everything."""
        if self._client is not None:
            self._client.close()
        self.stop_host()
        _stop(self._scheduler)


def _start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *words],
        env={**os.environ, "PYTHONPATH": str(load.ROOT)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _stop(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


DRIVER = Dask
