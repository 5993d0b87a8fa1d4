"""Which sandbox a host uses. Kernels without Landlock are simulated in the function that checks."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from axiom_client.decide.task_run import TaskFinished
from axiom_client.run.spec import TaskStarted
from axiom_client.sandbox import landlock, linux_choice
from axiom_client.sandbox.selftest import PREFIX, SelfTest, self_test
from tests.run.test_pool import COUNTING, until
from tests.support.running import LIMITS, Recorder, make_spec, script, with_pool

needs_bubblewrap = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed on this machine"
)


@pytest.fixture
def no_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi_version", lambda: 0)


@pytest.fixture
def no_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux_choice, "find_program", lambda name: None)


def test_kernel_first() -> None:
    report = self_test()
    assert report.mode == "kernel"
    assert report.ok, report.reason
    assert len(report.protections) >= 15


def test_what_a_killed_agent_left_of_its_trial_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, new = tmp_path / f"{PREFIX}old", tmp_path / f"{PREFIX}new"
    for folder in (left, new):
        (folder / "own").mkdir(parents=True)
    hour_ago = time.time() - 3600
    os.utime(left, (hour_ago, hour_ago))
    assert self_test().ok
    assert [path.name for path in tmp_path.iterdir()] == [new.name]  # another agent's, perhaps


def test_a_wrong_clock_removes_no_other_agent_s_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    other = tmp_path / f"{PREFIX}other"
    other.mkdir()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3 * 86_400)
    assert self_test().ok
    assert other.exists()


def test_a_trial_that_is_killed_is_repeated() -> None:
    """As when memory runs out. Otherwise the agent would end, and say that it cannot confine."""
    before = set(psutil.Process().children())
    trial = SelfTest()
    (child,) = set(psutil.Process().children()) - before
    child.kill()
    report = trial.report()
    assert report.ok, report.reason


@pytest.mark.usefixtures("no_landlock", "no_bubblewrap")
def test_refusal_without_either(tmp_path: Path) -> None:
    report = self_test()
    assert (report.mode, report.ok) == ("none", False)
    assert "Landlock" in report.reason
    assert "bubblewrap is not installed" in report.reason

    async def use(recorder: Recorder) -> None:
        finished = await recorder.finish(make_spec(tmp_path, script("value = [1]")))
        assert finished.outcome == "failed"
        assert "no task is run without a sandbox" in finished.message
        assert not recorder.of(finished.task_id, TaskStarted)

    with_pool(use)


@pytest.fixture
def broken_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_landlock: None) -> None:
    helper = tmp_path / "bwrap"
    helper.write_text("#!/bin/sh\necho 'no permissions to create new namespace' >&2\nexit 1\n")
    helper.chmod(0o755)
    monkeypatch.setattr(linux_choice, "find_program", lambda name: str(helper))


@pytest.mark.usefixtures("broken_bubblewrap")
def test_refusal_when_bubblewrap_does_not_work() -> None:
    report = self_test()
    assert (report.mode, report.ok) == ("none", False)
    assert "no permissions to create new namespace" in report.reason


@needs_bubblewrap
@pytest.mark.usefixtures("no_landlock")
def test_bubblewrap_second() -> None:
    report = self_test()
    assert report.mode == "bubblewrap"
    assert report.ok, report.reason


@needs_bubblewrap
@pytest.mark.usefixtures("no_landlock")
def test_tasks_run_stop_and_end_in_bubblewrap_as_elsewhere(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        good = await recorder.finish(make_spec(tmp_path, script("value = [task.seed]")))
        assert (good.outcome, good.result["value"]) == ("success", [7.0])

        limits = msgspec.structs.replace(LIMITS, memory_bytes=100_000_000, cpu_seconds=1.0)
        greedy = make_spec(tmp_path, script("x = bytearray(1 << 30)"), limits=limits)
        assert (await recorder.finish(greedy)).outcome == "over_memory"
        endless = make_spec(tmp_path, script("while True:\n    pass"), limits=limits)
        assert (await recorder.finish(endless)).outcome == "timed_out"

        for path in ("/etc/passwd", str(tmp_path / "secret")):
            reading = make_spec(tmp_path, script(f"open({path!r})"))
            assert "FileNotFoundError" in (await recorder.finish(reading)).message
        writing = make_spec(tmp_path, script("open('/planted', 'w')"))
        assert "Read-only file system" in (await recorder.finish(writing)).message

        spec = make_spec(tmp_path, script(COUNTING))
        recorder.pool.start(spec)
        await until(Path(spec.folder, "checkpoint.npz").exists)
        recorder.pool.stop(spec.task_id, grace_seconds=60)
        stopped = await recorder.wait(spec.task_id, TaskFinished)
        assert stopped.outcome == "cancelled"
        assert "after a checkpoint" in stopped.message

    with_pool(use)
