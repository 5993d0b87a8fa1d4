"""Measures how long a task waits for its start: in a process that waited, against a new one.

    python -m benchmarks.standby_start

These are the two ways in which tasks start on Windows and macOS. Here, macOS' launchers start real
processes on this system, and Seatbelt's call is a recorded success. The time starts with the pool's
``start`` and ends when the agent receives the progress that the experiment reports in its first
line. Both ways take turns, so that other load falls on both. ``waiting_mb`` is what one waiting
process keeps resident, files that are mapped included.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

import psutil

from axiom_client.decide.task_run import Environment
from axiom_client.run import system
from axiom_client.run.macos_launchers import Launchers
from axiom_client.run.spec import TaskEvent, TaskProgressed
from benchmarks.common import Runner, make_spec, median, report, script

ROUNDS = 7
BODY = "task.progress(0.5)\nimport {environment}"


class FirstLines:
    """When each task's first line ran, monotonic seconds by task."""

    def __init__(self) -> None:
        self.at: dict[int, float] = {}

    def heard(self, event: TaskEvent) -> None:
        """Take note of an event of the pool."""
        if isinstance(event, TaskProgressed):
            self.at.setdefault(event.task_id, time.perf_counter())


async def ready(pool_launchers: Launchers, environment: Environment) -> int:
    """The resident bytes of a process that is ready."""
    while True:
        for process in pool_launchers._standby._waiting:
            if process.ready and process.environment == environment:
                return int(psutil.Process(process.pid).memory_info().rss)
        await asyncio.sleep(0.02)


async def measure(environment: Environment, rounds: int) -> dict[str, float]:
    """The medians of both ways, in seconds, and the memory of a waiting process."""
    first, cold, warm, held = FirstLines(), [], [], []
    runner = Runner(first.heard)
    source = script(BODY.format(environment=environment))
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for _ in range(rounds):
                for ahead in (False, True):
                    runner.pool.allow_standby(int(ahead))
                    if ahead:
                        runner.pool.prewarm(environment)
                        held.append(await ready(runner.pool._launchers, environment))
                    spec = make_spec(Path(scratch), source, environment)
                    started = time.perf_counter()
                    await runner.run(spec)
                    (warm if ahead else cold).append(first.at[spec.task_id] - started)
        finally:
            await runner.pool.close(0)
    return {
        f"{environment}_ratio": median(cold) / median(warm),
        f"{environment}_cold_seconds": median(cold),
        f"{environment}_standby_seconds": median(warm),
        f"{environment}_waiting_mb": median([size / 1e6 for size in held]),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    system.Launchers, system.LIMITS_MEMORY = Launchers, False
    Launchers.module = "tests.support.macos_child"
    figures = {**asyncio.run(measure("numpy", rounds)), **asyncio.run(measure("torch", rounds))}
    report(
        "standby_start",
        {**figures, "load_average": os.getloadavg()[0]},
        {"name": "a new interpreter for each task, in the same run"},
    )


if __name__ == "__main__":
    main()
