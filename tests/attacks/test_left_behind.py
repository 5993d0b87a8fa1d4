"""Attacks on a task's own folder, channel or process end that task and affect nothing else."""

from __future__ import annotations

import asyncio
import io
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from axiom_client.decide.task_run import TaskFinished, TaskLimits
from axiom_client.run import task_folder, writes
from tests.attacks.conftest import ON_GPU, Attack, not_in_bubblewrap
from tests.support.running import Recorder, make_spec, script, with_pool

SMALL = TaskLimits(
    memory_bytes=400_000_000, disk_bytes=10_000_000, cpu_seconds=60, wall_seconds=60,
    output_bytes=100_000, result_bytes=10_000,
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_folder_stays(tmp_path: Path) -> Iterator[None]:
    """pytest's own cleaning is recursive, and fails on what is left here."""
    yield
    for folder in tmp_path.glob("task-*"):
        task_folder.remove(folder)


def worked(finished: TaskFinished) -> None:
    assert finished.outcome == "success", finished.message


@not_in_bubblewrap("bubblewrap's exit code tells signals above 32 apart no more")
@pytest.mark.parametrize("number", [34, 40, 63, 64])
def test_ending_by_a_real_time_signal(attack: Attack, number: int) -> None:
    finished = attack.run(f"os.kill(os.getpid(), {number}); import time; time.sleep(60)", SMALL)
    assert finished.outcome == "failed", finished.message
    assert "ended by " in finished.message


NEST = "for i in range({}):\n    os.mkdir('{}'); os.chdir('{}')\n"
FOLDERS = {
    "nested": (NEST.format(1100, "a", "a"), "over_disk"),
    "beyond PATH_MAX": (NEST.format(22, "a" * 200, "a" * 200), "success"),
    "mode 000": ("os.mkdir('x', 0)", "success"),
    "hidden": (
        "os.mkdir('x', 0o300)\nfor i in range(3):\n    open(f'x/{i}', 'wb').write(bytes(9 << 20))",
        "over_disk",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_is_hard_to_look_into(attack: Attack, case: str) -> None:
    body, outcome = FOLDERS[case]
    finished = attack.run(body, SMALL)
    assert finished.outcome == outcome, finished.message
    for folder in attack.folder.glob("task-*"):
        task_folder.remove(folder)
    assert not list(attack.folder.glob("task-*"))


@pytest.mark.parametrize("case", FOLDERS)
def test_the_disk_watch_goes_on_for_the_tasks_beside_it(tmp_path: Path, case: str) -> None:
    beside = "import os\n" + FOLDERS[case][0] + "\nimport time\ntime.sleep(120)"
    writer = "import time\nfor i in range(5):\n    open(f'f{i}', 'wb').write(bytes(9_000_000))\n"

    async def both(recorder: Recorder) -> tuple[TaskFinished, TaskFinished]:
        first = make_spec(tmp_path, script(beside), limits=SMALL)
        second = make_spec(tmp_path, script(writer + "time.sleep(120)"), limits=SMALL)
        recorder.pool.start(first)
        await asyncio.sleep(1.5)
        watched = await recorder.finish(second)
        recorder.pool.stop(first.task_id, 0)
        return watched, await recorder.wait(first.task_id, TaskFinished)

    watched, hidden = with_pool(both)
    assert watched.outcome == "over_disk", watched.message
    assert hidden.outcome in ("cancelled", "over_disk")


def test_reserving_disk_beyond_the_limit(attack: Attack) -> None:
    """FALLOC_FL_KEEP_SIZE (1) takes blocks that no file size shows."""
    attack.repelled(
        """
        f = open('big', 'wb')
        syscall(285, 47, f.fileno(), 1, 0, 1 << 30)
        """,
        "open('small', 'wb').write(bytes(1 << 20))",
        refusals=(38,),
    )


@not_in_bubblewrap("the process's memory is not the agent's to see (docs/sandbox.md)")
@pytest.mark.parametrize("mapped", [1 << 12, 8 << 20])
def test_deleted_files_that_are_only_mapped(attack: Attack, mapped: int) -> None:
    body = """
    import mmap, time
    held = []
    for i in range({files}):
        with open('f', 'w+b') as file:
            file.write(bytes({size}))
            held.append(mmap.mmap(file.fileno(), {mapped}))
        os.unlink('f')
    time.sleep({seconds})
    """
    whole = body.format(files=4, size=8 << 20, mapped=mapped, seconds=50)
    finished = attack.run(whole, SMALL)
    assert finished.outcome == "over_disk", finished.message
    worked(attack.run(body.format(files=2, size=1 << 20, mapped=1 << 12, seconds=2.5), SMALL))


@not_in_bubblewrap("what the process writes is not the agent's to see (docs/sandbox.md)")
def test_writing_without_end_to_one_small_file(attack: Attack) -> None:
    body = """
    import time
    end = time.monotonic() + {seconds}
    while time.monotonic() < end:
        with open('f', 'wb') as file:
            file.write(bytes(1 << 20)); file.flush(); os.fsync(file.fileno())
        time.sleep({pause})
    """
    finished = attack.run(body.format(seconds=50, pause=0), SMALL)
    assert finished.outcome == "over_disk", finished.message
    assert "written in all" in finished.message
    worked(attack.run(body.format(seconds=3, pause=0.3), SMALL))


FLOODS = {
    "empty lines": "data = b'\\n' * 65536\nwhile True:\n    os.write(3, data)",
    "bytes": "while True:\n    os.write(3, b'x')",
    "bytes of lines": "while True:\n    os.write(3, b'p'); os.write(3, b'\\n')",
    "unknown lines": "while True:\n    os.write(3, b'zzzz\\n' * 1000)",
    "forged failures": "while True:\n    os.write(3, b'e{}\\n' * 1000)",
    "second results": "while True:\n    os.write(3, b'r1\\n' * 1000)",
    "bytes of output": "while True:\n    os.write(1, b'x')",
    "empty lines of output": "while True:\n    os.write(1, b'\\n')",
}


@pytest.mark.parametrize("case", FLOODS)
def test_floods_cost_the_agent_little(attack: Attack, case: str) -> None:
    """Floods are limited in bytes; data sent byte by byte costs only a fraction of a core.

    Compared with reading lines in this process, since an emulated machine is slow.
    """
    limits = msgspec.structs.replace(SMALL, wall_seconds=5.0)
    before, begun = _own_cpu_seconds(), time.monotonic()
    finished = attack.run(FLOODS[case], limits)
    spent, lasted = _own_cpu_seconds() - before, time.monotonic() - begun
    assert finished.outcome in ("failed", "over_disk", "timed_out"), finished.message
    assert spent < 5 * _cpu_seconds_of_lines() + 0.1 * lasted


def _cpu_seconds_of_lines() -> float:
    """Of reading two million lines."""
    began = _own_cpu_seconds()
    assert sum(1 for _ in io.BytesIO(b"\n" * 2_000_000)) == 2_000_000
    return _own_cpu_seconds() - began


def _own_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def test_progress_is_passed_on_at_a_bounded_rate(tmp_path: Path) -> None:
    async def events(recorder: Recorder) -> int:
        await recorder.finish(
            make_spec(tmp_path, script("os = __import__('os')\nos.write(3, b'p0.5\\n' * 10_000)"))
        )
        return len(recorder.events)

    assert with_pool(events) < 20


@pytest.mark.skipif(ON_GPU, reason="a GPU's task has the same limit")
def test_timers_do_not_exhaust_the_users_signal_queue(attack: Attack) -> None:
    """The queue is one for all of the user's processes; timer_create takes a place of it."""
    body = """
    made = 0
    timer = ctypes.create_string_buffer(8)
    try:
        while made < 200_000:
            syscall(222, 107, 1, 0, ctypes.addressof(timer)); made += 1
    except OSError as error:
        print(error)
    signal.setitimer(signal.ITIMER_REAL, 1000)
    value = [made]
    """
    finished = attack.run(body, SMALL)
    worked(finished)
    assert finished.result["value"][0] <= 64


def test_killing_itself_so_as_to_be_run_again(attack: Attack) -> None:
    """A process that is killed counts as lost, and its task is run once more, here or elsewhere."""
    attack.repelled("os.kill(os.getpid(), signal.SIGKILL)", "os.kill(os.getpid(), signal.SIGCONT)")
    attack.repelled(
        "syscall(234, 131, os.getpid(), os.getpid(), signal.SIGKILL)",
        "syscall(234, 131, os.getpid(), os.getpid(), signal.SIGURG)",
    )


@pytest.mark.skipif(ON_GPU, reason="the driver's library may use timers")
def test_no_timer_may_kill_its_own_process(attack: Attack) -> None:
    """sigevent: notify by signal 9."""
    attack.repelled(
        """
        import struct
        event = struct.pack("=Qii48x", 0, signal.SIGKILL, 0)
        timer = ctypes.create_string_buffer(8)
        syscall(222, 107, 1, event, ctypes.addressof(timer))
        """,
        "signal.setitimer(signal.ITIMER_REAL, 1000)",
    )


def test_what_may_be_written_grows_with_time() -> None:
    early = writes.written_bytes_allowed(SMALL, 0.0)
    assert early < 100_000_000
    assert (
        writes.written_bytes_allowed(SMALL, 100.0) - early == 100 * writes.WRITTEN_BYTES_PER_SECOND
    )


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), signal.SIGTERM)", "os.write(3, STOPPED)"])
def test_stopping_itself_so_as_to_be_run_again(attack: Attack, how: str) -> None:
    """A task that somebody cancelled is handed out again without end; one that was lost is not."""
    line = b'e{"kind":"stopped","message":"stopped"}\n'
    body = (
        f"STOPPED = {line!r}\nimport time\n{how}\ntime.sleep(0.2)\ntask.progress(0.5)\nos._exit(1)"
    )
    finished = attack.run(body, SMALL)
    assert finished.outcome == "lost" or finished.shared, finished.message  # then in a smaller one
