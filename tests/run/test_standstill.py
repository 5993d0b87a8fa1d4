"""Time in which the agent and its tasks stood still is no elapsed time. Real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from axiom_client.run.standstill import GAP_SECONDS, Sample, standstill_seconds
from tests.support.processes import wait_for

ROOT = Path(__file__).parents[2]
STOPPED_SECONDS = 8.0
#: Works for so many seconds of its own processor, whatever stands still meanwhile.
BODY = """
import time
task.progress(0.1)
while time.process_time() < {seconds}:
    sum(range(10_000))
value = [1]
"""
HARNESS = """
import asyncio, json, sys
from pathlib import Path
import msgspec
from axiom_client.run.spec import TaskFinished, TaskStarted
from tests.support.running import Recorder, make_spec, script, LIMITS, with_pool

folder, body, wall, prefer = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]
limits = msgspec.structs.replace(LIMITS, wall_seconds=wall, cpu_seconds=600)
spec = make_spec(folder, script(body), limits=limits)

async def use(recorder):
    recorder.pool.start(spec)
    started = await recorder.wait(spec.task_id, TaskStarted)
    print(started.pid, flush=True)
    finished = await recorder.wait(spec.task_id, TaskFinished)
    told = [finished.outcome, finished.elapsed_seconds, finished.cpu_seconds]
    print(json.dumps(told), flush=True)

with_pool(use, prefer)
"""


class Running:
    """A pool in a process of its own, with one task."""

    def __init__(
        self, folder: Path, seconds: float, wall_seconds: float = 600.0, prefer: str = "warm"
    ) -> None:
        words = [str(folder), BODY.format(seconds=seconds), str(wall_seconds), prefer]
        self.process = subprocess.Popen(
            [sys.executable, "-c", HARNESS, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.task = psutil.Process(int(self.process.stdout.readline()))
        wait_for("the task to work", lambda: self.task.cpu_times().user > 1.0)

    def family(self) -> list[psutil.Process]:
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def stand_still(self, who: list[psutil.Process], seconds: float = STOPPED_SECONDS) -> None:
        for process in who:
            os.kill(process.pid, signal.SIGSTOP)
        time.sleep(seconds)
        for process in who:
            os.kill(process.pid, signal.SIGCONT)

    def finished(self) -> Any:
        """Outcome, elapsed seconds, processor seconds, and seconds by the wall clock."""
        began = self.task.create_time()
        out, _ = self.process.communicate(timeout=240)
        assert self.process.returncode == 0
        return [*json.loads(out.splitlines()[-1]), time.time() - began]


@pytest.mark.parametrize("prefer", ["warm", "cold"])
def test_seconds_in_which_all_stood_still_do_not_count(tmp_path: Path, prefer: str) -> None:
    running = Running(tmp_path, seconds=2.5, prefer=prefer)
    running.stand_still(running.family())
    outcome, elapsed, cpu, wall = running.finished()
    assert outcome == "success"
    assert wall > STOPPED_SECONDS + cpu
    assert cpu * 0.8 < elapsed < wall - STOPPED_SECONDS + 1.0


def test_two_standstills_one_of_them_at_the_end(tmp_path: Path) -> None:
    """The task ends with the last instructions after the second: the end is what is heard first."""
    running = Running(tmp_path, seconds=2.5)
    running.stand_still(running.family(), 5.0)
    wait_for("the task to be nearly done", lambda: running.task.cpu_times().user > 2.2)
    running.stand_still(running.family(), 5.0)
    _, elapsed, cpu, wall = running.finished()
    assert cpu * 0.8 < elapsed < wall - 10.0 + 1.5


def test_a_task_that_went_on_while_the_agent_stood_still_counts_it(tmp_path: Path) -> None:
    running = Running(tmp_path, seconds=9.0)
    running.stand_still([psutil.Process(running.process.pid)], GAP_SECONDS + 2.0)
    _, elapsed, cpu, _ = running.finished()
    assert elapsed > cpu * 0.9


def test_a_task_that_somebody_stops_by_itself_does_not_count_it(tmp_path: Path) -> None:
    running = Running(tmp_path, seconds=2.5)
    running.stand_still([running.task])
    _, elapsed, cpu, wall = running.finished()
    assert cpu * 0.8 < elapsed < wall - STOPPED_SECONDS + 2.5


def test_a_standstill_beyond_the_wall_limit_ends_no_task(tmp_path: Path) -> None:
    running = Running(tmp_path, seconds=2.5, wall_seconds=40.0)
    running.stand_still(running.family(), 41.0)
    outcome, elapsed, *_ = running.finished()
    assert outcome == "success"
    assert elapsed < 40


def test_short_gaps_and_work_at_the_usual_rate_are_no_standstill() -> None:
    two_cores = Sample(10.0, 20.0)  # processor seconds in ten
    assert standstill_seconds(10.0, two_cores, Sample(10.0 + GAP_SECONDS / 2, 20.0)) == 0
    assert standstill_seconds(10.0, two_cores, Sample(20.0, 40.0)) == 0
    assert standstill_seconds(10.0, two_cores, Sample(20.0, 24.0)) == pytest.approx(8.0)
    assert standstill_seconds(10.0, two_cores, Sample(20.0, 20.0)) == pytest.approx(10.0)
    assert standstill_seconds(10.0, Sample(10.0, 1.0, True), Sample(11.0, 1.0, True)) == 1.0
