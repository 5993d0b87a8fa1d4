"""The agent's Windows code under a Windows CPython in wine: `make wine`.

wine 8 has job objects without most limits, and no AppContainers. So the agent refuses work there,
which is tested, and the way of a task through the pool is tested with the container left out.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="for `make wine`")

import axiom_client
from tests.wine import complex_parts

complex_parts.provide()

from axiom_client.control.server import ControlServer, Request, ask
from axiom_client.decide.model import AgentState
from axiom_client.decide.task_run import TaskFinished
from axiom_client.errors import NotRunning
from axiom_client.run.spec import TaskProgressed, TaskStarted
from axiom_client.run.windows_task_process import WindowsProcess
from axiom_client.sandbox import mode, selftest, windows, windows_calls, windows_container
from axiom_client.sandbox.common_trials import Outside
from axiom_client.sandbox.mode import Mode
from axiom_client.sandbox.policy import Policy
from axiom_client.sandbox.selftest import self_test
from tests.run.test_pool import until
from tests.support.known_numbers import SOURCE, VALUE
from tests.support.running import LIMITS, Recorder, make_spec, script, with_pool

#: Packages that do not exist for Windows, are not in wine, or are installed with the service only.
ABSENT = ("fcntl", "resource", "jeepney", "servicemanager")
COUNTING = """
import time
state = task.restore() or {"done": 0}
for i in range(state["done"], 400):
    task.progress((i + 1) / 400)
    task.checkpoint({"done": i + 1})
    time.sleep(0.05)
value = [state["done"]]
"""


def test_every_module_of_windows_can_be_imported() -> None:
    others: list[str] = []
    for module in pkgutil.walk_packages(axiom_client.__path__, "axiom_client."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except AssertionError:  # "assert sys.platform": a module of another system
            others.append(module.name)
        except ModuleNotFoundError as error:
            if error.name not in ABSENT:
                raise
    assert "axiom_client.run.zygote" in others
    assert not [name for name in others if "windows" in name]


def test_without_containers_no_task_is_run(tmp_path: Path) -> None:
    report = self_test()
    assert (report.mode, report.ok) == ("none", False)
    assert "has no AppContainers" in report.reason

    async def use(recorder: Recorder) -> TaskFinished:
        return await recorder.finish(make_spec(tmp_path, script("value = [1]")))

    finished: TaskFinished = with_pool(use)
    assert finished.outcome == "failed"
    assert "no task is run without a sandbox" in finished.message


# ---- tasks in a job object alone


@pytest.fixture
def job_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mode, "choose", lambda: Mode(mode="appcontainer"))
    monkeypatch.setattr(WindowsProcess, "module", "tests.wine.child")
    monkeypatch.setattr(WindowsProcess, "_container", lambda self, attributes: None)
    # wine has no limit of the CPU rate
    monkeypatch.setattr(WindowsProcess, "_job", lambda self: windows.job_attributes(self._policy))


@pytest.mark.usefixtures("job_alone")
def test_a_numpy_task_has_the_numbers_of_linux(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        finished = await recorder.finish(make_spec(tmp_path, SOURCE))
        assert finished.outcome == "success", finished.message
        kinds = [type(event) for event in recorder.events]
        assert kinds == [TaskStarted, TaskProgressed, TaskFinished]
        assert finished.result["value"] == pytest.approx(VALUE, rel=1e-12)

    with_pool(use)


@pytest.mark.usefixtures("job_alone")
def test_a_task_pauses_stops_at_a_checkpoint_and_goes_on(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        spec = make_spec(tmp_path, script(COUNTING))
        recorder.pool.start(spec)
        await until(Path(spec.folder, "checkpoint.npz").exists)
        recorder.pool.pause(spec.task_id)
        recorder.pool.stop(spec.task_id, grace_seconds=60)
        stopped = await recorder.wait(spec.task_id, TaskFinished)
        assert stopped.outcome == "cancelled", stopped.message
        assert "after a checkpoint" in stopped.message

    with_pool(use)


@pytest.mark.usefixtures("job_alone")
def test_a_task_that_does_not_stop_is_ended(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        spec = make_spec(tmp_path, script("import time\ntask.progress(0.1)\ntime.sleep(120)"))
        recorder.pool.start(spec)
        await recorder.wait(spec.task_id, TaskProgressed)
        recorder.pool.stop(spec.task_id, grace_seconds=0.5)
        assert (await recorder.wait(spec.task_id, TaskFinished)).outcome == "cancelled"

    with_pool(use)


@pytest.mark.usefixtures("job_alone")
def test_errors_limits_and_crashes_have_their_outcomes(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        wrong = await recorder.finish(make_spec(tmp_path, script("raise ValueError('wrong')")))
        assert (wrong.outcome, "ValueError: wrong" in wrong.message) == ("failed", True)
        short = msgspec.structs.replace(LIMITS, wall_seconds=4.0)
        slow = make_spec(tmp_path, script("import time\ntime.sleep(120)"), limits=short)
        assert (await recorder.finish(slow)).outcome == "timed_out"
        small = msgspec.structs.replace(LIMITS, disk_bytes=1_000_000)
        body = "open('big', 'wb').write(bytes(9_000_000))\nimport time\ntime.sleep(120)"
        big = make_spec(tmp_path, script(body), limits=small)
        assert (await recorder.finish(big)).outcome == "over_disk"
        crash = make_spec(tmp_path, script("import os\nos._exit(3)"))
        gone = await recorder.finish(crash)
        assert (gone.outcome, "code 3" in gone.message) == ("failed", True)

    with_pool(use)


@pytest.mark.usefixtures("job_alone")
def test_a_task_outside_of_a_container_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process itself verifies that it is confined, as on a real Windows."""
    monkeypatch.setattr(WindowsProcess, "module", "tests.wine.verifying_child")

    async def use(recorder: Recorder) -> TaskFinished:
        return await recorder.finish(make_spec(tmp_path, script("open('ran', 'w')")))

    finished: TaskFinished = with_pool(use)
    assert finished.outcome == "failed"
    assert "could not be confined" in finished.message
    assert not list(tmp_path.glob("*/ran"))


@pytest.mark.usefixtures("job_alone")
def test_a_task_runs_in_the_process_that_waited(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its numbers, its pause and its limits are those of a new interpreter's."""

    async def ready(recorder: Recorder) -> int:
        waiting = recorder.pool._launchers._standby
        recorder.pool.allow_standby(1)
        recorder.pool.prewarm("numpy")
        await until(lambda: any(process.ready for process in waiting._waiting))
        return int(next(process.pid for process in waiting._waiting if process.ready))

    async def use(recorder: Recorder) -> None:
        pid = await ready(recorder)
        spec = make_spec(tmp_path, SOURCE)
        finished = await recorder.finish(spec)
        assert finished.outcome == "success", finished.message
        assert (await recorder.wait(spec.task_id, TaskStarted)).pid == pid
        assert finished.result["value"] == pytest.approx(VALUE, rel=1e-12)
        pid = await ready(recorder)
        spec = make_spec(tmp_path, script(COUNTING))
        recorder.pool.start(spec)
        await until(Path(spec.folder, "checkpoint.npz").exists)
        recorder.pool.pause(spec.task_id)
        recorder.pool.stop(spec.task_id, grace_seconds=60)
        stopped = await recorder.wait(spec.task_id, TaskFinished)
        assert "after a checkpoint" in stopped.message
        pid = await ready(recorder)
        psutil.Process(pid).kill()
        await until(lambda: "cannot be loaded ahead" in caplog.text)
        last = make_spec(tmp_path, script("value = [1]"))
        assert (await recorder.finish(last)).outcome == "success"

    with_pool(use)


#: An agent with a process that waits for a task.
WAITING_AGENT = """
import asyncio
from tests.wine import complex_parts
complex_parts.provide()
from axiom_client.run.windows_task_process import WindowsProcess
from axiom_client.sandbox import mode, windows
from axiom_client.sandbox.mode import Mode
mode.choose = lambda: Mode(mode="appcontainer")
WindowsProcess.module = "tests.wine.child"
WindowsProcess._container = lambda self, attributes: None
WindowsProcess._job = lambda self: windows.job_attributes(self._policy)
from tests.support.running import Recorder
async def main():
    recorder = Recorder()
    recorder.pool.allow_standby(1)
    recorder.pool.prewarm("numpy")
    print(*recorder.pool._launchers.standby_pids()["numpy"], flush=True)
    await asyncio.sleep(120)
asyncio.run(main())
"""


def test_a_process_that_waits_ends_with_a_killed_agent() -> None:
    agent = subprocess.Popen([sys.executable, "-c", WAITING_AGENT], stdout=subprocess.PIPE)
    assert agent.stdout is not None
    task = psutil.Process(int(agent.stdout.readline()))
    assert task.is_running()
    agent.kill()
    agent.wait()
    agent.stdout.close()
    psutil.wait_procs([task], timeout=30)
    assert not task.is_running()


def test_a_job_alone_is_found_to_be_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial as on Windows, in a real job object without a container."""
    from axiom_client.sandbox import windows_trial

    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])

    def start(chosen: Mode, policy: Policy, outside: Outside) -> windows_trial.Trial:
        return windows_trial.start(policy, msgspec.structs.replace(outside, agent=sleeper.pid))

    monkeypatch.setattr(windows_container, "prepare", lambda attributes: None)
    monkeypatch.setattr(selftest, "_start_trial", start)
    monkeypatch.setattr(mode, "choose", lambda: Mode(mode="appcontainer"))
    try:
        report = self_test()
    finally:
        sleeper.kill()
        sleeper.wait()
    assert (report.mode, report.ok) == ("appcontainer", False)
    found = {protection.name: protection.enforced for protection in report.protections}
    assert found["runs in a job object"]
    assert found["its own folder can be used"]
    for name in ("runs in an AppContainer", "files outside cannot be read", "no network: TCP"):
        assert not found[name], report
    assert report.by_agent


#: An agent that starts a process in a job object and is then killed.
AGENT = """
import os, sys, time
from axiom_client.sandbox.policy import Limits, Policy
from axiom_client.sandbox.windows import job_attributes
from axiom_client.sandbox.windows_process import ConfinedProcess
import msvcrt
limits = Limits(memory_bytes=10**9, file_bytes=10**6, cpu_seconds=60)
policy = Policy(folder=os.getcwd(), read_only=(), limits=limits)
null = [msvcrt.get_osfhandle(os.open(os.devnull, os.O_RDWR)) for _ in range(3)]
command = [sys.executable, "-c", "import time; time.sleep(120)"]
task = ConfinedProcess(command, {}, os.getcwd(), tuple(null), job_attributes(policy), None)
print(task.pid, flush=True)
time.sleep(120)
"""


def test_tasks_end_with_a_killed_agent() -> None:
    agent = subprocess.Popen([sys.executable, "-c", AGENT], stdout=subprocess.PIPE)
    assert agent.stdout is not None
    task = psutil.Process(int(agent.stdout.readline()))
    assert task.is_running()
    agent.kill()
    agent.wait()
    agent.stdout.close()
    psutil.wait_procs([task], timeout=30)
    assert not task.is_running()


def test_this_process_is_not_confined() -> None:
    with pytest.raises(OSError, match=r"cannot .*Windows error"):
        windows_calls.assign(0, 0)


# ---- the control pipe


def test_commands_arrive_by_the_pipe(tmp_path: Path) -> None:
    class Agent:
        state = AgentState()
        reloaded = 0

        def reload(self) -> str:
            self.reloaded += 1
            return ""

    agent: Any = Agent()
    path = tmp_path / "control.sock"

    async def use() -> None:
        server = ControlServer(path, agent)
        await server.start()
        answer = await asyncio.to_thread(ask, path, Request(do="reload"))
        assert answer.problem == ""
        await server.close()

    with pytest.raises(NotRunning):
        ask(path, Request(do="reload"))
    asyncio.run(use())
    assert agent.reloaded == 1
