"""The pool with real processes: clocks, stopping, checkpoints, crashes, equal numbers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import psutil
import pytest

from axiom_client.decide.task_run import TaskFinished
from axiom_client.run.spec import TaskProgressed, TaskStarted
from tests.support.known_numbers import SOURCE, VALUE
from tests.support.running import (
    DEADLINE_SECONDS,
    LIMITS,
    Recorder,
    finish,
    make_spec,
    script,
    with_pool,
)

GONE_SECONDS = 1.0  # after a kill -9, the promise of the design

COUNTING = """
import time
state = task.restore() or {"done": 0, "total": 0.0}
for i in range(state["done"], 40):
    state = {"done": i + 1, "total": state["total"] + float(task.rng(i).standard_normal())}
    task.progress(state["done"] / 40)
    task.checkpoint(state)
    time.sleep(0.05)
value = [state["total"]]
"""
SLEEPING = "import time\ntask.progress(0.5)\ntime.sleep({})"


def test_progress_and_end_in_order(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, script("task.progress(0.25); print('hello'); value = [1]"))

    async def use(recorder: Recorder) -> None:
        await recorder.finish(spec)
        kinds = [type(event) for event in recorder.events]
        assert kinds == [TaskStarted, TaskProgressed, TaskFinished]
        finished = recorder.events[-1]
        assert isinstance(finished, TaskFinished)
        assert finished.outcome == "success"
        assert finished.result == {"valid": 1, "configs_done": 1, "value": [1.0]}
        assert 0 < finished.elapsed_seconds < DEADLINE_SECONDS
        assert finished.cpu_user_seconds + finished.cpu_system_seconds > 0
        assert finished.peak_memory_bytes > 1_000_000

    with_pool(use)


def test_many_at_once(tmp_path: Path) -> None:
    source = script("value = [task.seed]")

    async def use(recorder: Recorder) -> None:
        specs = [make_spec(tmp_path, source, seed=seed) for seed in range(100)]
        for spec in specs:
            recorder.pool.start(spec)
        for spec in specs:
            finished = await recorder.wait(spec.task_id, TaskFinished)
            assert finished.result["value"] == [spec.seed]
        assert all(len(recorder.of(spec.task_id, TaskFinished)) == 1 for spec in specs)

    with_pool(use)


def test_pause_is_not_elapsed(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        spec = make_spec(tmp_path, script(SLEEPING.format(0.5)))
        recorder.pool.start(spec)
        started = await recorder.wait(spec.task_id, TaskStarted)
        await recorder.wait(spec.task_id, TaskProgressed)
        recorder.pool.pause(spec.task_id)
        await until(lambda: psutil.Process(started.pid).status() == psutil.STATUS_STOPPED)
        await asyncio.sleep(3)  # longer than the task needs altogether
        assert not recorder.of(spec.task_id, TaskFinished)
        recorder.pool.resume(spec.task_id)
        begun = time.monotonic()
        finished = await recorder.wait(spec.task_id, TaskFinished)
        assert finished.outcome == "success"
        assert finished.elapsed_seconds < 3 + (time.monotonic() - begun)

    with_pool(use)


def test_pause_before_it_has_a_process(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        spec = make_spec(tmp_path, script("value = [1]"))
        recorder.pool.start(spec)
        recorder.pool.pause(spec.task_id)
        await recorder.wait(spec.task_id, TaskStarted)
        recorder.pool.resume(spec.task_id)
        finished = await recorder.wait(spec.task_id, TaskFinished)
        assert finished.outcome == "success"

    with_pool(use)


def test_wall_limit_does_not_count_a_pause(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        limits = msgspec.structs.replace(LIMITS, wall_seconds=2.0)
        spec = make_spec(tmp_path, script(SLEEPING.format(0.1)), limits=limits)
        recorder.pool.start(spec)
        await recorder.wait(spec.task_id, TaskProgressed)
        recorder.pool.pause(spec.task_id)
        await asyncio.sleep(3)
        recorder.pool.resume(spec.task_id)
        finished = await recorder.wait(spec.task_id, TaskFinished)
        assert finished.outcome == "success", finished.message

    with_pool(use)


def test_polite_stop_checkpoints_and_a_restored_run_equals_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    async def use(recorder: Recorder) -> None:
        source = script(COUNTING)
        whole = await recorder.finish(make_spec(tmp_path, source))
        folder = tmp_path / "interrupted"
        spec = make_spec(tmp_path, source, task_folder=folder)
        checkpoint = folder / "checkpoint.npz"
        recorder.pool.start(spec)
        await until(checkpoint.exists)
        recorder.pool.stop(spec.task_id, grace_seconds=DEADLINE_SECONDS)
        stopped = await recorder.wait(spec.task_id, TaskFinished)
        assert (stopped.outcome, stopped.result) == ("cancelled", None)
        assert checkpoint.exists()
        again = await recorder.finish(make_spec(tmp_path, source, task_folder=folder))
        assert again.outcome == "success"
        assert json.dumps(again.result) == json.dumps(whole.result)
        assert again.elapsed_seconds < whole.elapsed_seconds * 3

    with_pool(use)


def test_stop_kills_after_the_grace(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        spec = make_spec(tmp_path, script(SLEEPING.format(1000)))
        recorder.pool.start(spec)
        await recorder.wait(spec.task_id, TaskProgressed)
        recorder.pool.stop(spec.task_id, grace_seconds=0.3)
        finished = await recorder.wait(spec.task_id, TaskFinished)
        assert finished.outcome == "cancelled"
        assert finished.elapsed_seconds < DEADLINE_SECONDS

    with_pool(use)


def test_stop_of_a_paused_task(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        spec = make_spec(tmp_path, script(COUNTING))
        checkpoint = Path(spec.folder, "checkpoint.npz")
        recorder.pool.start(spec)
        await until(checkpoint.exists)
        recorder.pool.pause(spec.task_id)
        recorder.pool.stop(spec.task_id, grace_seconds=DEADLINE_SECONDS)
        finished = await recorder.wait(spec.task_id, TaskFinished)
        assert finished.outcome == "cancelled"
        assert "after a checkpoint" in finished.message

    with_pool(use)


def test_finishing_during_the_grace_is_success(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        spec = make_spec(tmp_path, script("import time; time.sleep(1); value = [1]"))
        recorder.pool.start(spec)
        await recorder.wait(spec.task_id, TaskStarted)
        await asyncio.sleep(0.3)  # past its confinement
        recorder.pool.stop(spec.task_id, grace_seconds=DEADLINE_SECONDS)
        finished = await recorder.wait(spec.task_id, TaskFinished)
        assert finished.outcome == "success"

    with_pool(use)


@pytest.mark.parametrize("environment", ["numpy", "torch"])
def test_the_same_seed_gives_the_same_bytes_warm_cold_and_restored(
    tmp_path: Path, environment: str
) -> None:
    body = """
    import numpy as np
    rng = task.rng(0)
    x = rng.standard_normal((200, 20))
    value = list(np.linalg.svd(x)[1]) + [hash("a") % 1000, np.random.rand()]
    """
    if environment == "torch":
        body += """
    import torch
    net = torch.nn.Sequential(torch.nn.Linear(20, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.from_numpy(task.rng(1).standard_normal(p.shape)) * 0.1)
    data = torch.from_numpy(x).float()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        loss = (net(data) ** 2).mean()
        loss.backward()
        optimizer.step()
        value.append(loss.item())
    value += [torch.rand(1).item()]
    """
    source = script(body, environment)  # type: ignore[arg-type]

    async def use(recorder: Recorder) -> list[str]:
        results = []
        for _ in range(2):
            spec = make_spec(tmp_path, source, environment=environment)  # type: ignore[arg-type]
            finished = await recorder.finish(spec)
            assert finished.outcome == "success", finished.message
            results.append(json.dumps(finished.result))
        return results

    results = with_pool(use, "warm") + with_pool(use, "cold")
    assert len(set(results)) == 1


def test_kill_of_the_zygote_loses_its_tasks_and_the_next_starts_another(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        spec = make_spec(tmp_path, script(SLEEPING.format(1000)))
        recorder.pool.start(spec)
        started = await recorder.wait(spec.task_id, TaskStarted)
        await recorder.wait(spec.task_id, TaskProgressed)
        os.kill(recorder.pool.zygote_pids()["numpy"], signal.SIGKILL)
        killed_at = time.monotonic()
        finished = await recorder.wait(spec.task_id, TaskFinished)
        assert finished.outcome == "lost"
        await asyncio.wait_for(until(lambda: not is_running(started.pid)), GONE_SECONDS)
        assert time.monotonic() - killed_at < DEADLINE_SECONDS
        after = await recorder.finish(make_spec(tmp_path, script("value = [1]")))
        assert after.outcome == "success"

    with_pool(use)


def test_environment_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("axiom_client.sandbox.launch.import_paths", lambda: (_checkout(),))
    monkeypatch.setattr("axiom_client.sandbox.launch._FIXED", {"PYTHONHOME": str(tmp_path)})

    async def use(recorder: Recorder) -> None:
        finished = await recorder.finish(make_spec(tmp_path, script("value = [1]")))
        assert finished.outcome in ("failed", "lost")

    with_pool(use)


def test_changed_script_is_not_run(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, script("value = [1]"))
    Path(spec.source_path).write_text("import os")

    async def use(recorder: Recorder) -> None:
        finished = await recorder.finish(spec)
        assert finished.outcome == "lost"  # a fault of this host's: it is fetched and run again
        assert "verified" in finished.message

    with_pool(use)


def test_script_that_is_gone_is_no_fault_of_the_experiment(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, script("value = [1]"))
    Path(spec.source_path).unlink()
    assert finish(spec).outcome == "lost"


def test_full_disk_of_the_host_is_no_fault_of_the_experiment(tmp_path: Path) -> None:
    body = "raise OSError(28, 'No space left on device')"
    finished = finish(make_spec(tmp_path, script(body)))
    assert finished.outcome == "lost"
    assert "the host's disk is full" in finished.message


def test_idle_zygotes_are_stopped(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        recorder.pool.prewarm("numpy")
        pid = recorder.pool.zygote_pids()["numpy"]
        await recorder.finish(make_spec(tmp_path, script("value = [1]")))
        assert recorder.pool.zygote_pids() == {"numpy": pid}
        recorder.pool.release_idle()
        assert recorder.pool.zygote_pids() == {}
        await recorder.finish(make_spec(tmp_path, script("value = [1]")))
        assert recorder.pool.zygote_pids()["numpy"] != pid

    with_pool(use)


def test_numpy_zygote_has_no_torch(tmp_path: Path) -> None:
    source = script("import sys; value = ['torch' in sys.modules, 'numpy' in sys.modules]")
    finished = with_pool(lambda recorder: recorder.finish(make_spec(tmp_path, source)))
    assert finished.result["value"] == [0.0, 1.0]


def test_the_agent_never_imports_torch() -> None:
    code = "import sys, axiom_client.run.pool; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=_checkout()).returncode == 0


AGENT = """
import asyncio, sys
from pathlib import Path
from axiom_client.run.spec import TaskProgressed
from tests.support.running import Recorder, make_spec, script
async def main():
    recorder = Recorder(sys.argv[2])
    spec = make_spec(Path(sys.argv[1]), script("import time; task.progress(.5); time.sleep(1000)"))
    recorder.pool.start(spec)
    await recorder.wait(spec.task_id, TaskProgressed)
    if sys.argv[3] == "paused":
        recorder.pool.pause(spec.task_id)
    print("running", *recorder.pool.zygote_pids().values(), flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no autogroups here")
@pytest.mark.parametrize("prefer", ["warm", "cold"])
def test_the_whole_session_of_a_task_has_the_lowest_priority(
    tmp_path: Path, prefer: Literal["warm", "cold"]
) -> None:
    """The lowest rank within a session says nothing against other sessions (sched(7))."""

    async def use(recorder: Recorder) -> str:
        recorder.pool.start(spec := make_spec(tmp_path, script(SLEEPING.format(1000))))
        started = await recorder.wait(spec.task_id, TaskStarted)
        await recorder.wait(spec.task_id, TaskProgressed)
        return session_rank(started.pid)

    before = session_rank(os.getpid())
    assert with_pool(use, prefer, background=True) == "nice 19"
    assert session_rank(os.getpid()) == before


@pytest.mark.parametrize(
    ("prefer", "state", "victims"),
    [
        ("warm", "running", "agent"),
        ("warm", "paused", "agent"),
        ("warm", "running", "both"),
        ("cold", "running", "agent"),
    ],
)
def test_no_process_is_left_a_second_after_kill_9(
    tmp_path: Path, prefer: str, state: str, victims: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, str(tmp_path), prefer, state],
        cwd=_checkout(), stdout=subprocess.PIPE, text=True,
    ) as agent:  # fmt: skip
        assert agent.stdout is not None
        zygotes = [int(word) for word in agent.stdout.readline().split()[1:]]
        family = [process.pid for process in psutil.Process(agent.pid).children(recursive=True)]
        assert len(family) >= (2 if prefer == "warm" else 1)
        for pid in ([*zygotes] if victims == "both" else []) + [agent.pid]:
            os.kill(pid, signal.SIGKILL)
        time.sleep(GONE_SECONDS)
        assert [pid for pid in family if is_running(pid)] == []


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that no event tells."""
    while not holds():  # noqa: ASYNC110  the file system sets no event
        await asyncio.sleep(0.01)


def session_rank(pid: int) -> str:
    """What the kernel says of the session's share, such as "nice 0"."""
    return Path(f"/proc/{pid}/autogroup").read_text().partition(" ")[2].strip()


def is_running(pid: int) -> bool:
    """Whether the process still exists, other than as a zombie that init has yet to reap."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _checkout() -> str:
    return str(Path(__file__).parents[2])


def test_known_numbers(tmp_path: Path) -> None:
    """The numbers that `make wine` expects of Windows' numpy too."""
    finished = finish(make_spec(tmp_path, SOURCE))
    assert finished.result["value"] == pytest.approx(VALUE, rel=1e-12)
