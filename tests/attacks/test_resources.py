"""Attacks on the host's memory, disk and time: each ends with the outcome of its limit."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from axiom_client.decide.task_run import TaskFinished, TaskLimits
from axiom_client.run.zygote import SPARES
from tests.attacks.conftest import IN_BUBBLEWRAP, ON_GPU, Attack, not_in_bubblewrap
from tests.support.running import LIMITS

SMALL = TaskLimits(
    memory_bytes=200_000_000, disk_bytes=4_000_000, cpu_seconds=30, wall_seconds=60,
    output_bytes=100_000, result_bytes=10_000,
)  # fmt: skip


def ended(finished: TaskFinished, outcome: str, *words: str) -> None:
    """Assert the outcome, that the message names limit and figure, and that there is no result."""
    assert finished.outcome == outcome, finished.message
    assert finished.result is None
    for word in words:
        assert word in finished.message


def worked(finished: TaskFinished) -> None:
    """Assert that the harmless twin succeeds."""
    assert finished.outcome == "success", finished.message


def test_100_gib_private(attack: Attack) -> None:
    ended(attack.run("x = bytearray(100 << 30)", SMALL), "over_memory", "memory: 200000000 bytes")
    worked(attack.run("x = bytearray(100 << 20)", SMALL))


def test_100_gib_shared(attack: Attack) -> None:
    body = "import mmap; m = mmap.mmap(-1, {} << 20)"
    if ON_GPU:  # addresses are free there; what is used of them is counted by the agent
        body += "\nimport time\nfor at in range(0, len(m), 4096): m[at] = 1\ntime.sleep(0)"
    ended(attack.run(body.format(100 << 10), SMALL), "over_memory", "200000000")
    worked(attack.run(body.format(100), SMALL))


def test_100_gib_in_arrays(attack: Attack) -> None:
    body = "import numpy as np; x = [np.ones(1 << 17) for _ in range({})]"
    ended(attack.run(body.format(100 << 10), SMALL), "over_memory", "200000000")
    worked(attack.run(body.format(100), SMALL))


def test_endless_small_objects(attack: Attack) -> None:
    body = "x = []\nfor i in range({}):\n    x.append(str(i))"
    ended(attack.run(body.format(10**12), SMALL), "over_memory", "200000000")
    worked(attack.run(body.format(10**5), SMALL))


def test_memory_in_a_file_of_its_own(attack: Attack) -> None:
    """A mapped file counts as address space and as disk."""
    body = (
        "import mmap; f = open('big', 'w+b'); f.truncate({size}); m = mmap.mmap(f.fileno(), {size})"
    )
    ended(attack.run(body.format(size=1 << 32), SMALL), "over_disk", "4000000")
    worked(attack.run(body.format(size=1 << 20), SMALL))


def test_one_huge_file(attack: Attack) -> None:
    body = "f = open('big', 'wb')\nfor _ in range({}):\n    f.write(bytes(1 << 20))"
    ended(attack.run(body.format(10_000), SMALL), "over_disk", "disk: 4000000 bytes")
    worked(attack.run(body.format(2), SMALL))


def test_many_files_within_the_limit_each(attack: Attack) -> None:
    body = "for i in range({}):\n    open(f'f{{i}}', 'wb').write(bytes(1 << 20))"
    ended(attack.run(body.format(12), SMALL), "over_disk", "4000000 bytes are allowed")
    worked(attack.run(body.format(2), SMALL))


def test_thousands_of_empty_files(attack: Attack) -> None:
    body = "for i in range({}):\n    open(f'f{{i}}', 'wb').close()"
    slow = msgspec.structs.replace(SMALL, cpu_seconds=600, wall_seconds=600)  # emulated machines
    ended(attack.run(body.format(11_000), slow), "over_disk", "10000 files")
    worked(attack.run(body.format(100), SMALL))


@not_in_bubblewrap("the process's open files are not the agent's to see (docs/sandbox.md)")
def test_deleted_but_open_files(attack: Attack) -> None:
    """Deleted files still use disk space while they are open."""
    body = """
    import time
    held = []
    for i in range({files}):
        held.append(open(f'f{{i}}', 'wb'))
        held[-1].write(bytes(1 << 20)); held[-1].flush(); os.unlink(f'f{{i}}')
    time.sleep({seconds})
    """
    ended(attack.run(body.format(files=12, seconds=50), SMALL), "over_disk", "4000000")
    worked(attack.run(body.format(files=2, seconds=0), SMALL))


def test_sparse_file(attack: Attack) -> None:
    body = "f = open('sparse', 'wb'); f.truncate({})"
    ended(attack.run(body.format(1 << 40), SMALL), "over_disk", "4000000")
    worked(attack.run(body.format(1 << 20), SMALL))


def test_endless_output(attack: Attack) -> None:
    body = "for i in range({}):\n    print('x' * 1000)"
    ended(attack.run(body.format(10**9), SMALL), "over_disk", "output: more than the 100000 bytes")
    worked(attack.run(body.format(50), SMALL))


def test_endless_errors(attack: Attack) -> None:
    body = "for i in range({}):\n    os.write(2, b'x' * 1000)"
    ended(attack.run(body.format(10**9), SMALL), "over_disk", "output")
    worked(attack.run(body.format(50), SMALL))


def test_endless_progress(attack: Attack) -> None:
    body = "for i in range({}):\n    os.write(3, b'p0.5\\n')"
    ended(attack.run(body.format(10**9), SMALL), "failed", "progress")
    worked(attack.run(body.format(1000), SMALL))


def test_endless_line_to_the_agent(attack: Attack) -> None:
    ended(
        attack.run("while True:\n    os.write(3, b'x' * 10000)", SMALL),
        "failed", "result: more than the 10000 bytes",
    )  # fmt: skip
    worked(attack.run("os.write(3, b'x' * 1000 + b'\\n')", SMALL))


IGNORE_SIGNALS = """
for number in range(1, 64):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
"""


def test_endless_sleep_with_signals_ignored(attack: Attack) -> None:
    limits = msgspec.structs.replace(SMALL, wall_seconds=2.0)
    body = IGNORE_SIGNALS + "import time\nend = time.monotonic() + {}\n"
    body += "while time.monotonic() < end:\n    time.sleep(0.05)"
    ended(attack.run(body.format(10**6), limits), "timed_out", "elapsed time", "2 s allowed")
    worked(attack.run(body.format(0.2), SMALL))


def test_endless_loop_with_signals_ignored(attack: Attack) -> None:
    limits = msgspec.structs.replace(SMALL, cpu_seconds=1.0)
    body = IGNORE_SIGNALS + "import time\nwhile time.process_time() < {}:\n    pass"
    finished = attack.run(body.format(10**6), limits)
    ended(finished, "timed_out", "CPU time", "1 s allowed")
    assert finished.cpu_user_seconds + finished.cpu_system_seconds < 10
    worked(attack.run(body.format(0.2), limits))


def test_closing_the_channel_and_staying(attack: Attack) -> None:
    limits = msgspec.structs.replace(SMALL, wall_seconds=2.0)
    ended(attack.run("import time\nos.close(3)\ntime.sleep(1000)", limits), "timed_out", "elapsed")
    worked(attack.run("os.close(os.dup(3))", SMALL))


@not_in_bubblewrap("a task is the first process of its namespace, and cannot stop itself")
def test_stopping_itself(attack: Attack) -> None:
    """A task that freezes itself to hold its slot is ended all the same."""
    limits = msgspec.structs.replace(SMALL, wall_seconds=2.0)
    ended(attack.run("os.kill(os.getpid(), signal.SIGSTOP)", limits), "timed_out", "elapsed")
    worked(attack.run("os.kill(os.getpid(), signal.SIGCONT)", SMALL))


def test_open_every_descriptor(attack: Attack) -> None:
    body = "held = [os.open('.', os.O_RDONLY) for _ in range({})]"
    ended(attack.run(body.format(100_000), SMALL), "failed", "Too many open files")
    worked(attack.run(body.format(30), SMALL))


def test_recursion_without_end(attack: Attack) -> None:
    body = "def f(n):\n    return 0 if n == 0 else f(n - 1)\nf({})"
    ended(attack.run(body.format(10**9), SMALL), "failed", "RecursionError")
    worked(attack.run(body.format(100), SMALL))


def test_crash(attack: Attack) -> None:
    ended(attack.run("ctypes.string_at(0)", SMALL), "failed", "SIGSEGV")
    worked(attack.run("ctypes.string_at(b'x')", SMALL))


def test_core_dump(attack: Attack) -> None:
    own = attack.folder / "own"
    own.mkdir()
    name = "SIGSEGV" if IN_BUBBLEWRAP else "SIGABRT"  # the first process of a namespace: abort(3)
    ended(attack.run("os.abort()", SMALL, own), "failed", name)
    assert list(own.iterdir()) == []
    worked(attack.run("os.getpid()", SMALL))


def test_leaving_without_a_result(attack: Attack) -> None:
    ended(attack.run("os._exit(0)", SMALL), "failed", "no result")
    ended(attack.run("sys.exit(0)", SMALL), "failed", "SystemExit")
    worked(attack.run("pass", SMALL))


@not_in_bubblewrap("there is no zygote")
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_nothing_is_left_of_any_of_them(attack: Attack) -> None:
    """After all these attacks, the zygote's only children are its spare processes."""
    worked(attack.run("pass", LIMITS))
    zygote = attack.sandbox_pool.zygote_pid()
    children = Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()
    assert len(children) <= SPARES, children
