"""Standby processes, by macOS' launchers with real processes; only Seatbelt's call is recorded."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from axiom_client.decide.task_run import Environment, TaskFinished
from axiom_client.run import standby, system
from axiom_client.run.macos_launchers import Launchers
from axiom_client.run.posix_standby import StandbyProcess
from axiom_client.run.spec import TaskProgressed, TaskStarted
from tests.run.test_pool import COUNTING, SLEEPING, is_running, until
from tests.support.processes import still_running
from tests.support.running import Recorder, make_spec, script, with_pool

ROOT = Path(__file__).parents[2]
NUMBERS = """
import sys
import numpy as np
value = list(np.linalg.svd(task.rng(0).standard_normal((60, 20)))[1])
value += [hash("a") % 1000, np.random.rand(), "torch" in sys.modules]
"""


@pytest.fixture(autouse=True)
def as_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "Launchers", Launchers)
    monkeypatch.setattr(system, "LIMITS_MEMORY", False)
    monkeypatch.setattr(Launchers, "module", "tests.support.macos_child")
    monkeypatch.setattr(standby, "TICK_SECONDS", 0.2)
    monkeypatch.setattr(standby, "LOAD_TICKS_MAX", 1000)  # a loaded machine
    monkeypatch.setattr(standby, "IDLE_TICKS", 1000)


def processes(recorder: Recorder) -> Any:
    """The processes that wait in this pool."""
    return recorder.pool._launchers._standby  # type: ignore[attr-defined]


def waiting(recorder: Recorder, environment: str = "numpy") -> list[int]:
    """Process ids of those that are ready."""
    found: list[StandbyProcess] = processes(recorder)._waiting
    return [p.pid for p in found if p.ready and p.environment == environment]


async def prewarmed(
    recorder: Recorder, environment: Environment = "numpy", allowed: int = 1
) -> int:
    """Allow one, and wait until it is ready; returns its process id."""
    recorder.pool.allow_standby(allowed)
    recorder.pool.prewarm(environment)
    await until(lambda: bool(waiting(recorder, environment)))
    return waiting(recorder, environment)[0]


def test_a_task_runs_in_the_process_that_waited_and_the_next_waits_meanwhile(
    tmp_path: Path,
) -> None:
    async def use(recorder: Recorder) -> None:
        first = await prewarmed(recorder)
        spec = make_spec(tmp_path, script(SLEEPING.format(1000)))
        recorder.pool.start(spec)
        started = await recorder.wait(spec.task_id, TaskStarted)
        assert started.pid == first
        await until(lambda: bool(waiting(recorder)))
        second = waiting(recorder)[0]
        assert second != first
        await recorder.wait(spec.task_id, TaskProgressed)
        recorder.pool.stop(spec.task_id, 0)
        assert (await recorder.wait(spec.task_id, TaskFinished)).outcome == "cancelled"
        other = make_spec(tmp_path, script("value = [1]"))
        finished = await recorder.finish(other)
        assert (await recorder.wait(other.task_id, TaskStarted)).pid == second
        assert finished.outcome == "success", finished.message
        assert not is_running(first)  # it served one task

    with_pool(use)


@pytest.mark.parametrize("environment", ["numpy", "torch"])
def test_the_numbers_are_those_of_a_new_interpreter(
    tmp_path: Path, environment: Environment
) -> None:
    body = NUMBERS
    if environment == "torch":
        body += "import torch\nvalue += [torch.rand(1).item(), torch.get_num_threads()]\n"
    source = script(body, environment)

    async def use(recorder: Recorder) -> list[str]:
        results = []
        for ahead in (False, True):
            if ahead:
                await prewarmed(recorder, environment)
            spec = make_spec(tmp_path, source, environment=environment)
            finished = await recorder.finish(spec)
            assert finished.outcome == "success", finished.message
            results.append(json.dumps(finished.result))
        return results

    assert len(set(with_pool(use))) == 1


def test_time_spent_before_the_task_is_not_the_task_s(tmp_path: Path) -> None:
    """Importing torch takes more than a second of CPU time."""

    async def use(recorder: Recorder) -> None:
        pid = await prewarmed(recorder, "torch")
        before = psutil.Process(pid).cpu_times()
        spec = make_spec(tmp_path, script("value = [1]", "torch"), environment="torch")
        finished = await recorder.finish(spec)
        assert finished.cpu_seconds < (before.user + before.system) / 2

    with_pool(use)


def test_pause_resume_and_a_stop_at_a_checkpoint(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        pid = await prewarmed(recorder)
        spec = make_spec(tmp_path, script(COUNTING))
        recorder.pool.start(spec)
        await until(Path(spec.folder, "checkpoint.npz").exists)
        recorder.pool.pause(spec.task_id)
        await until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
        recorder.pool.stop(spec.task_id, grace_seconds=60)
        stopped = await recorder.wait(spec.task_id, TaskFinished)
        assert (stopped.outcome, stopped.result) == ("cancelled", None)
        assert "after a checkpoint" in stopped.message

    with_pool(use)


def test_nothing_of_one_task_reaches_the_next(tmp_path: Path) -> None:
    leaving = "import numpy, os\nnumpy.left = 1\nos.environ['LEFT'] = '1'\nvalue = [1]"
    finding = "import numpy, os\nvalue = [hasattr(numpy, 'left'), 'LEFT' in os.environ]"

    async def use(recorder: Recorder) -> None:
        for body, found in ((leaving, [1.0]), (finding, [0.0, 0.0])):
            await prewarmed(recorder)
            finished = await recorder.finish(make_spec(tmp_path, script(body)))
            assert finished.result["value"] == found

    with_pool(use)


# ---- what is kept


def test_none_waits_unless_allowed(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        recorder.pool.prewarm("numpy")
        finished = await recorder.finish(make_spec(tmp_path, script("value = [1]")))
        assert finished.outcome == "success"
        assert processes(recorder).pids() == {}

    with_pool(use)


def test_a_lowered_limit_and_idleness_end_them(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        pid = await prewarmed(recorder)
        recorder.pool.allow_standby(0)
        await until(lambda: not is_running(pid))
        again = await prewarmed(recorder)
        recorder.pool.release_idle()
        await until(lambda: not is_running(again))
        assert processes(recorder).pids() == {}
        await recorder.finish(make_spec(tmp_path, script("value = [1]")))
        await until(lambda: bool(waiting(recorder)))  # another task was expected

    with_pool(use)


def test_tasks_with_other_libraries_get_a_process_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(recorder: Recorder) -> None:
        numpy_only = await prewarmed(recorder)
        source = script("import torch; value = [torch.ones(1).item()]", "torch")
        spec = make_spec(tmp_path, source, environment="torch")
        finished = await recorder.finish(spec)
        assert finished.outcome == "success"
        assert (await recorder.wait(spec.task_id, TaskStarted)).pid != numpy_only
        recorder.pool.start(
            make_spec(tmp_path, script(SLEEPING.format(1000), "torch"), environment="torch")
        )
        monkeypatch.setattr(standby, "IDLE_TICKS", 2)
        await until(lambda: not is_running(numpy_only))  # no task wants it any more
        await until(lambda: bool(waiting(recorder, "torch")))

    with_pool(use)


def test_more_tasks_keep_more_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "TASKS_PER_STANDBY", 1)

    async def use(recorder: Recorder) -> None:
        await prewarmed(recorder, allowed=2)
        specs = [make_spec(tmp_path, script(SLEEPING.format(1000))) for _ in range(3)]
        for spec in specs:
            recorder.pool.start(spec)
        await until(lambda: len(waiting(recorder)) == 2)
        for spec in specs[1:]:
            recorder.pool.stop(spec.task_id, 0)
            await recorder.wait(spec.task_id, TaskFinished)
        await until(lambda: len(processes(recorder).pids()["numpy"]) == 1)

    with_pool(use)


def test_memory_that_runs_short_ends_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = [0.5]
    monkeypatch.setattr(standby, "free_memory_share", lambda: share[0])

    async def use(recorder: Recorder) -> None:
        pid = await prewarmed(recorder)
        share[0] = 0.04
        await until(lambda: not is_running(pid))
        assert processes(recorder).pids() == {}
        finished = await recorder.finish(make_spec(tmp_path, script("value = [1]")))
        assert finished.outcome == "success"
        assert processes(recorder).pids() == {}
        share[0] = 0.5
        await until(lambda: bool(waiting(recorder)))

    with_pool(use)


# ---- failures


def test_a_process_that_dies_is_not_missed_by_a_task(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "axiom_client")

    async def use(recorder: Recorder) -> None:
        pid = await prewarmed(recorder)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: processes(recorder).pids() == {})
        spec = make_spec(tmp_path, script("value = [1]"))
        finished = await recorder.finish(spec)
        assert finished.outcome == "success", finished.message
        assert processes(recorder).pids() == {}  # it is tried again later

    with_pool(use)
    assert "numpy cannot be loaded ahead" in caplog.text


def test_a_process_that_died_unnoticed_is_replaced_by_a_new_interpreter(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        pid = await prewarmed(recorder)
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)  # noqa: ASYNC251  the event loop must not learn of it meanwhile
        spec = make_spec(tmp_path, script("value = [1]"))
        finished = await recorder.finish(spec)
        assert finished.outcome == "success", finished.message
        started = recorder.of(spec.task_id, TaskStarted)
        assert len(started) == 1
        assert started[0].pid != pid

    with_pool(use)


def test_a_process_that_hangs_in_its_imports_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Launchers, "module", "tests.support.hanging_child")
    monkeypatch.setattr(standby, "LOAD_TICKS_MAX", 2)

    async def use(recorder: Recorder) -> None:
        recorder.pool.allow_standby(1)
        recorder.pool.prewarm("numpy")
        [pid] = processes(recorder).pids()["numpy"]
        finished = await recorder.finish(make_spec(tmp_path, script("value = [1]")))
        assert finished.outcome == "success"  # it did not wait for that process
        await until(lambda: not is_running(pid))
        assert processes(recorder).pids() == {}

    with_pool(use)


def test_libraries_that_cannot_be_loaded_are_said_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Launchers, "module", "tests.support.broken_child")
    monkeypatch.setattr(standby, "RETRY_TICKS", 3)
    caplog.set_level(logging.WARNING, "axiom_client")

    async def use(recorder: Recorder) -> None:
        recorder.pool.allow_standby(1)
        recorder.pool.prewarm("numpy")
        await until(lambda: "no module named numpy here" in caplog.text)
        assert caplog.text.count("cannot be loaded ahead") == 1
        monkeypatch.setattr(Launchers, "module", "tests.support.macos_child")
        await until(lambda: bool(waiting(recorder)))

    with_pool(use)


def test_a_process_that_cannot_be_started_costs_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Launchers, environment: Environment) -> StandbyProcess:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(Launchers, "_start_standby", refuse)

    async def use(recorder: Recorder) -> None:
        recorder.pool.allow_standby(1)
        recorder.pool.prewarm("numpy")
        finished = await recorder.finish(make_spec(tmp_path, script("value = [1]")))
        assert finished.outcome == "success"

    with_pool(use)


def test_a_standstill_of_everything_ends_none(tmp_path: Path) -> None:
    """As when the host sleeps: time counts in ticks of the agent, which stands still too."""

    async def use(recorder: Recorder) -> None:
        pid = await prewarmed(recorder)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)  # noqa: ASYNC251  the agent stands still too
        os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.5)
        spec = make_spec(tmp_path, script("value = [1]"))
        finished = await recorder.finish(spec)
        assert (finished.outcome, finished.elapsed_seconds < 60) == ("success", True)
        assert (await recorder.wait(spec.task_id, TaskStarted)).pid == pid

    with_pool(use)


AGENT = """
import asyncio
from axiom_client.run import system
from axiom_client.run.macos_launchers import Launchers
system.Launchers = Launchers
Launchers.module = "tests.support.{module}"
from tests.support.running import Recorder
async def main():
    recorder = Recorder()
    recorder.pool.allow_standby(1)
    recorder.pool.prewarm("numpy")
    print(*recorder.pool._launchers.standby_pids()["numpy"], flush=True)
    await asyncio.sleep({seconds})
    print("ready", flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("module", "seconds"), [("macos_child", 3.0), ("hanging_child", 0.0)], ids=["waits", "imports"]
)
def test_they_end_with_a_killed_agent(module: str, seconds: float) -> None:
    code = AGENT.format(module=module, seconds=seconds)
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        assert agent.stdout.readline() == "ready\n"
        family = [p.pid for p in psutil.Process(agent.pid).children(recursive=True)]
        assert pid in family
        agent.kill()
        until_seconds = time.monotonic() + 30
        while any(map(is_running, family)) and time.monotonic() < until_seconds:
            time.sleep(0.05)
        assert not [pid for pid in family if is_running(pid)]


def test_no_process_is_left_by_a_pool_that_closes(tmp_path: Path) -> None:
    others = psutil.Process().children(recursive=True)  # of earlier tests

    async def use(recorder: Recorder) -> list[psutil.Process]:
        await prewarmed(recorder)
        return [p for p in psutil.Process().children(recursive=True) if p not in others]

    own = with_pool(use)
    assert own
    assert not still_running(own, 30)
