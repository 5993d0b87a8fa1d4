"""A task's process: reads the assignment, enters the sandbox, runs the script, sends the result.

Forked and cold children run the same code. They differ only in when the libraries are imported, and
their results are equal bit for bit.
"""

from __future__ import annotations

import gc
import io
import json
import mmap
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from axiom_client.run.channel import (
    CHANNEL_DESCRIPTOR,
    COHORT_PROGRESS_INTERVAL_SECONDS,
    PROGRESS_INTERVAL_SECONDS,
    Assignment,
    FailureKind,
    encode_assignment,
    encode_failure,
    encode_progress,
    encode_result,
)
from axiom_client.run.experiment import load_run, load_run_cohort
from axiom_client.run.task import CohortStop, Task, TaskStopped
from axiom_client.sandbox import landlock, linux, process, seccomp
from axiom_client.sandbox.libc import SandboxError
from axiom_client.sandbox.limits import MemoryGauge
from axiom_client.sandbox.policy import Limits, Policy
from axiom_client.sandbox.roots import read_only_roots

_ASSIGNMENTS = msgspec.json.Decoder(Assignment)  # built once, before any fork
_WARM_UP_RUNS = 10  # CPython specializes code until its eighth run, which writes to memory
_RESERVE_BYTES = 1 << 20  # freed when memory runs out, so that the child can still report it
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc", "Cannot allocate memory")


class _Stop:
    """Set by SIGTERM from the agent; the task checks it where it can checkpoint."""

    requested = False


def run_assigned(
    program: seccomp.Template | None, *, cold: bool, setup_error: str = ""
) -> NoReturn:
    """Run the one task of this process and exit. The channel is descriptor 3.

    program      the seccomp program of a task without a GPU, if it was built in advance
    setup_error  an error from before there was a channel to report it on; then nothing is run
    """
    signal.signal(signal.SIGTERM, lambda *_: setattr(_Stop, "requested", True))
    assignment, source = _receive()
    failure: tuple[FailureKind, str] | None
    try:
        if setup_error:
            raise SandboxError(setup_error)
        _confine(assignment, program, cold=cold)
    except (SandboxError, OSError, ImportError) as error:
        _exit_with(encode_failure("sandbox", f"the task could not be confined: {error}"), status=2)
    # Only address space: it takes no memory as long as nothing is written to it.
    reserve = mmap.mmap(-1, _RESERVE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    encoded = b""
    try:
        encoded = _run_cohort(assignment, source) if assignment.others else _run(assignment, source)
        failure = None
    except BaseException as error:  # noqa: BLE001  an experiment may raise anything
        reserve.close()
        failure = _explain(error)
    if failure is None:
        _exit_with(encoded, status=0)
    _exit_with(encode_failure(*failure), status=1)


def _receive() -> tuple[Assignment, str]:
    with open(CHANNEL_DESCRIPTOR, "rb", closefd=False) as channel:
        line = channel.readline()
        if not line:
            os._exit(0)  # the agent cancelled the task, or has ended
        assignment = _ASSIGNMENTS.decode(line)
        return assignment, channel.read(assignment.source_bytes).decode()


def _confine(assignment: Assignment, program: seccomp.Template | None, *, cold: bool) -> None:
    policy = assignment.policy
    if policy.driver is not None:
        os.environ.update(policy.driver.environment)
        program = None
    os.chdir(policy.folder)
    for name in ("HOME", "TMPDIR", "SQLITE_TMPDIR"):  # update() would write to 160 pages
        os.environ[name] = policy.folder
    tempfile.tempdir = policy.folder
    gauge = MemoryGauge()
    if cold and policy.background:
        process.lower_session_priority()
    if assignment.landlock:
        linux.confine_paths(policy, gauge)
    else:
        linux.lower_priority_and_close_files(policy, gauge)
    if cold:
        from axiom_client.run import libraries

        libraries.load(assignment.environment)
    _seed_libraries(assignment.seed)
    sys.stdout = _text_output(1)
    sys.stderr = _text_output(2)
    linux.confine_calls(policy, gauge, program)
    gc.enable()


def _text_output(descriptor: int) -> io.TextIOWrapper:
    """Line-buffered, so that the last lines of a killed task are not lost."""
    return open(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False)


def _seed_libraries(seed: int) -> None:
    """Seed the global generators too. Experiments should use task.rng; if they use a global one by
    mistake, it depends on the seed instead of being the same in all children of a zygote."""
    import random

    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.default_generator.manual_seed(seed)


def _run(assignment: Assignment, source: str) -> bytes:
    """The line with the result of a task that has the process to itself."""
    run = load_run(source, assignment.experiment)
    task = Task(
        seed=assignment.seed,
        parameters=assignment.parameters,
        budget_seconds=assignment.budget_seconds,
        device=assignment.device,
        folder=Path(assignment.policy.folder),
        on_progress=_progress_sender(),
        stop_requested=lambda _saved: _Stop.requested,
    )
    return encode_result(_encode_result(run(task), assignment.result_bytes))


def _run_cohort(assignment: Assignment, source: str) -> bytes:
    """The lines of all members: a result each, or the reason why there is none."""
    run_cohort = load_run_cohort(source, assignment.experiment)
    tasks = _cohort(assignment)
    results = list(run_cohort(tasks))
    if len(results) != len(tasks):
        raise _ResultUnusable(f"run_cohort returned {len(results)} results for {len(tasks)} tasks")
    return b"".join(
        _member_line(i, result, assignment.result_bytes) for i, result in enumerate(results)
    )


def _cohort(assignment: Assignment) -> list[Task]:
    seeds = [assignment.seed, *(member.seed for member in assignment.others)]
    folders = [assignment.policy.folder, *assignment.policy.folders]
    stop = CohortStop(len(seeds), lambda: _Stop.requested)
    return [
        Task(
            seed=seed,
            parameters=dict(assignment.parameters),
            budget_seconds=assignment.budget_seconds,
            device=assignment.device,
            folder=Path(folder),
            on_progress=_progress_sender(i),
            stop_requested=stop.for_member(i),
        )
        for i, (seed, folder) in enumerate(zip(seeds, folders, strict=True))
    ]


def _member_line(member: int, result: Any, bytes_max: int) -> bytes:
    """The line of one member; an experiment returns an exception in place of a missing result."""
    try:
        if isinstance(result, Exception):
            raise result
        return encode_result(_encode_result(result, bytes_max), member)
    except Exception as error:  # noqa: BLE001  the experiment may return any exception
        return encode_failure(*_explain(error), member)


def _progress_sender(member: int | None = None) -> Callable[[float], None]:
    last = 0.0
    interval = PROGRESS_INTERVAL_SECONDS if member is None else COHORT_PROGRESS_INTERVAL_SECONDS

    def send(fraction: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= interval:
            last = now
            os.write(CHANNEL_DESCRIPTOR, encode_progress(fraction, member))

    return send


class _ResultUnusable(Exception):
    pass


def _encode_result(value: Any, bytes_max: int) -> bytes:
    try:
        encoded = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        reason = "it is circular" if "ircular" in str(error) else "a number is not finite"
        raise _ResultUnusable(f"{reason}; report divergence as a flag") from None
    except (TypeError, RecursionError) as error:
        raise _ResultUnusable(f"{error}; return native numbers, lists and tables") from None
    if len(encoded) > bytes_max:
        raise _ResultUnusable(f"it is {len(encoded)} bytes; at most {bytes_max} are accepted")
    return encoded


def _explain(error: BaseException) -> tuple[FailureKind, str]:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, _ResultUnusable):
        return "result", f"the result was refused: {error}"
    if isinstance(error, TaskStopped):
        return "stopped", str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, of a device's memory
        return "gpu_memory", text
    if isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY):
        return "memory", text
    if isinstance(error, OSError) and error.errno == 27:  # EFBIG: its own limit
        return "disk", text
    if isinstance(error, OSError) and error.errno in (28, 122):  # ENOSPC, EDQUOT: the host's disk
        return "full_disk", text
    lines = traceback.format_exception(error)
    sys.stderr.write("".join(lines))
    return "error", "".join(lines)


def _exit_with(line: bytes, *, status: int) -> NoReturn:
    """Send the last line and exit at once, without running exit handlers of the experiment."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # the experiment closed or replaced it, and loses only its own output
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(CHANNEL_DESCRIPTOR, rest) :]
    os._exit(status)


def warm_up() -> seccomp.Template:
    """Run a child's steps in the zygote, except those that confine it, so that children share the
    memory pages that these write to. Returns the seccomp program of a task without a GPU."""
    limits = Limits(memory_bytes=0, file_bytes=0, cpu_seconds=0)
    policy = Policy(folder="", read_only=read_only_roots(), limits=limits)
    source = "def run(task):\n    return {'valid': 1}\n"
    written = encode_assignment(
        Assignment(
            experiment="rehearsal", environment="numpy", parameters={}, seed=0, budget_seconds=1.0,
            device="cpu", result_bytes=100, policy=policy, source_bytes=len(source),
        ),
        b"",
    )  # fmt: skip
    for _ in range(_WARM_UP_RUNS):
        assignment = _ASSIGNMENTS.decode(written)
        _seed_libraries(assignment.seed)
        _run(assignment, source)
    if (abi := landlock.abi_version()) >= 1:
        os.close(
            landlock.prepare(abi, policy)
        )  # children reuse the descriptors of the libraries' folders
    return seccomp.template(seccomp.build(policy))
