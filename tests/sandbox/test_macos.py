"""macOS' sandbox on other systems: its calls with recorded answers, its path through the real pool.

Source of the answers: sandbox_init(3): 0 on success, -1 with a message to be freed otherwise.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import psutil
import pytest

from axiom_client.cli.doctor import _print_report
from axiom_client.decide.task_run import TaskFinished
from axiom_client.run import exits, system
from axiom_client.run.keeper import Keeper, followed
from axiom_client.run.macos_launchers import Launchers
from axiom_client.sandbox import macos, macos_process, macos_trial, selftest
from axiom_client.sandbox.common_trials import Outside
from axiom_client.sandbox.errors import SandboxError
from axiom_client.sandbox.mode import Mode
from axiom_client.sandbox.policy import Limits, Policy
from axiom_client.sandbox.selftest import SandboxReport
from tests.run.test_pool import COUNTING, until
from tests.support.recorded_library import install
from tests.support.running import LIMITS, Recorder, make_spec, script, with_pool

POLICY = Policy(
    folder="/task",
    read_only=("/usr/lib",),
    limits=Limits(memory_bytes=1_000_000, file_bytes=5_000, cpu_seconds=2.5),
)
SLEEPING = [sys.executable, "-c", "import time; time.sleep(120)"]


def test_seatbelt_takes_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    library = install(monkeypatch, sandbox_init=0)
    macos.restrict(POLICY)
    name, text, flags, _ = library.calls[0]
    assert (name, text, flags.value) == ("sandbox_init", macos.profile(POLICY).encode(), 0)
    assert macos.missing() == ""


def test_refused_profile_is_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: bytes, flags: Any, message: Any) -> int:
        message._obj.value = b"line 3: unbound variable: file-raed*"
        return -1

    library = install(monkeypatch, sandbox_init=refuse, sandbox_free_error=None)
    with pytest.raises(SandboxError, match="unbound variable"):
        macos.restrict(POLICY)
    assert library.names() == ["sandbox_init", "sandbox_free_error"]
    install(monkeypatch, sandbox_init=-1)
    with pytest.raises(SandboxError, match="no reason given"):
        macos.restrict(POLICY)


def test_a_mac_without_seatbelt_runs_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    assert "no sandbox_init" in macos.missing()
    monkeypatch.undo()
    if sys.platform != "darwin":
        assert "cannot be loaded" in macos.missing()


def test_limits_that_macos_has() -> None:
    limits = dict(macos_process.resource_limits(POLICY))
    assert limits[resource.RLIMIT_CPU] == (3, 5)
    assert limits[resource.RLIMIT_FSIZE] == (5_000, 5_000)
    assert limits[resource.RLIMIT_CORE] == (0, 0)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(SLEEPING)
    yield process
    process.kill()
    process.wait()


def trying(monkeypatch: pytest.MonkeyPatch, module: str, agent: int) -> SandboxReport:
    """The self-test as on macOS; ``agent`` is the process that the trial tries to end."""

    def start(chosen: Mode, policy: Policy, outside: Outside) -> subprocess.Popen[bytes]:
        return macos_trial.start(policy, msgspec.structs.replace(outside, agent=agent))

    monkeypatch.setattr(macos_trial, "MODULE", module)
    monkeypatch.setattr(selftest, "_start_trial", start)
    monkeypatch.setattr(selftest.mode, "choose", lambda: Mode(mode="seatbelt"))
    return selftest.self_test()


def test_a_seatbelt_that_enforces_nothing_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
    sleeper: subprocess.Popen[bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = trying(monkeypatch, "tests.support.macos_trial_child", sleeper.pid)
    assert (report.mode, report.ok) == ("seatbelt", False)
    enforced = {protection.name for protection in report.protections if protection.enforced}
    assert enforced == {"its own folder can be used", "no larger file than allowed"}
    assert "no network: TCP" in report.reason
    assert any(limit.startswith("memory") for limit in report.by_agent)
    _print_report("sandbox", report)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("  NOT ENFORCED  no network: TCP") for line in lines)
    assert any(line.startswith("  by the agent  memory: each second") for line in lines)


def test_a_seatbelt_that_cannot_be_applied_is_no_sandbox(
    monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]
) -> None:
    report = trying(monkeypatch, macos_trial.MODULE, sleeper.pid)
    assert not report.ok
    assert [protection.name for protection in report.protections] == ["confinement"]
    assert sleeper.poll() is None


# ---- the pool with macOS' launchers


@pytest.fixture
def macos_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "Launchers", Launchers)
    monkeypatch.setattr(system, "LIMITS_MEMORY", False)


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch, macos_pool: None) -> None:
    """Tasks whose Seatbelt is a recorded success: all but the confinement is real."""
    monkeypatch.setattr(Launchers, "module", "tests.support.macos_child")


@pytest.mark.usefixtures("macos_pool")
def test_a_task_that_cannot_be_confined_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    async def use(recorder: Recorder) -> TaskFinished:
        return await recorder.finish(make_spec(tmp_path, script(f"open({str(ran)!r}, 'w')")))

    finished: TaskFinished = with_pool(use)
    assert finished.outcome == "failed"
    assert "could not be confined" in finished.message
    assert not ran.exists()


@pytest.mark.usefixtures("answering")
def test_a_task_runs_pauses_and_stops_as_elsewhere(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        good = await recorder.finish(make_spec(tmp_path, script("value = [task.seed]")))
        assert (good.outcome, good.result["value"]) == ("success", [7.0])
        assert good.cpu_seconds > 0
        spec = make_spec(tmp_path, script(COUNTING))
        recorder.pool.start(spec)
        await until(Path(spec.folder, "checkpoint.npz").exists)
        recorder.pool.pause(spec.task_id)
        recorder.pool.stop(spec.task_id, grace_seconds=60)
        stopped = await recorder.wait(spec.task_id, TaskFinished)
        assert (stopped.outcome, stopped.result) == ("cancelled", None)
        assert "after a checkpoint" in stopped.message

    with_pool(use)


@pytest.mark.usefixtures("answering")
def test_memory_is_checked_by_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "RUNTIME_BYTES", 200_000_000)

    async def use(recorder: Recorder) -> TaskFinished:
        source = script("x = bytearray(1_500_000_000)\nimport time\ntime.sleep(120)")
        return await recorder.finish(make_spec(tmp_path, source))

    finished: TaskFinished = with_pool(use)
    assert finished.outcome == "over_memory", finished.message


@pytest.mark.usefixtures("answering")
def test_a_file_that_is_too_large_is_over_disk(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(LIMITS, disk_bytes=100_000)

    async def use(recorder: Recorder) -> TaskFinished:
        source = script("open('big', 'wb').truncate(200_000)")
        return await recorder.finish(make_spec(tmp_path, source, limits=limits))

    finished: TaskFinished = with_pool(use)
    assert finished.outcome == "over_disk", finished.message


# ---- how a process ended


class Queue:
    """kqueue(2) with recorded answers: a descriptor that can be read once the process has ended."""

    refuses = False
    made: ClassVar[list[Queue]] = []

    def __init__(self) -> None:
        self._read, self.write = os.pipe()
        self.wanted: list[Any] = []
        self.made.append(self)

    def fileno(self) -> int:
        return self._read

    def control(self, changes: list[Any], events: int) -> list[Any]:
        if self.refuses:
            raise ProcessLookupError(3, "No such process")
        self.wanted += changes
        return []

    def close(self) -> None:
        os.close(self._read)


@pytest.fixture
def macos_exits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module as macOS loads it. The constants are those of macOS' sys/event.h."""
    names = {
        "kqueue": Queue, "kevent": lambda *fields: fields, "KQ_FILTER_PROC": -5, "KQ_EV_ADD": 1,
        "KQ_EV_ONESHOT": 0x10, "KQ_NOTE_EXIT": 0x8000_0000,
    }  # fmt: skip
    for name, value in names.items():
        monkeypatch.setattr(select, name, value, raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    spec = importlib.util.spec_from_file_location("macos_exits", exits.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.undo()
    for name, value in names.items():
        monkeypatch.setattr(select, name, value, raising=False)
    Queue.made = []
    return module


@pytest.mark.parametrize("already", [False, True], ids=["it runs", "it has ended already"])
def test_an_end_is_noticed_by_a_kernel_queue(
    macos_exits: Any, monkeypatch: pytest.MonkeyPatch, already: bool
) -> None:
    monkeypatch.setattr(Queue, "refuses", already)
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])

    async def use() -> int:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        macos_exits.watch(process.pid, lambda status, usage: ended.set_result(status))
        queue = Queue.made[-1]
        if not already:
            assert queue.wanted == [(process.pid, -5, 0x11, 0x8000_0000)]
            os.write(queue.write, b"x")
        status = await asyncio.wait_for(ended, 60)
        os.close(queue.write)
        return status

    status = asyncio.run(use())
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 7
    assert macos_exits.peak_bytes(resource.struct_rusage([0.0, 0.0, *[5] * 14])) == 5


# ---- the keeper


AGENT = """
import sys, time
from axiom_client.run.keeper import Keeper
keeper = Keeper()
keeper.add(int(sys.argv[1]))
keeper.add(int(sys.argv[2]))
keeper.remove(int(sys.argv[2]))
print("kept", flush=True)
time.sleep(120)
"""


def test_keeper_ends_the_tasks_of_a_killed_agent(sleeper: subprocess.Popen[bytes]) -> None:
    other = subprocess.Popen(SLEEPING)
    words = [sys.executable, "-c", AGENT, str(sleeper.pid), str(other.pid)]
    agent = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"kept\n"
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        assert sleeper.wait(timeout=30) == -signal.SIGKILL
        assert other.poll() is None  # it had been removed from the list
    finally:
        for process in (agent, other):
            process.kill()
            process.wait()
        if agent.stdout is not None:
            agent.stdout.close()


def test_keeper_ends_by_itself(sleeper: subprocess.Popen[bytes]) -> None:
    keeper = Keeper()
    keeper.add(sleeper.pid)
    keeper.remove(sleeper.pid)
    keeper.close()
    time.sleep(0.1)
    assert sleeper.poll() is None


def test_keeper_spares_a_number_that_another_process_took(
    sleeper: subprocess.Popen[bytes],
) -> None:
    left = followed(BytesIO(b"+%d\n+4194304999\n" % sleeper.pid))
    assert list(left) == [sleeper.pid]
    process = left[sleeper.pid]
    sleeper.kill()
    sleeper.wait()
    with pytest.raises(psutil.NoSuchProcess):
        process.kill()
