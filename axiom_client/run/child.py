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
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol

from axiom_client.run.channel import (
    COHORT_PROGRESS_INTERVAL_SECONDS,
    PROGRESS_INTERVAL_SECONDS,
    Assignment,
    FailureKind,
    encode_failure,
    encode_progress,
    encode_result,
)
from axiom_client.run.experiment import load_run, load_run_cohort
from axiom_client.run.task import CohortStop, Task, TaskStopped
from axiom_client.sandbox.errors import SandboxError

_RESERVE_BYTES = 1 << 20  # freed when memory runs out, so that the child can still report it
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc", "Cannot allocate memory")


class ChildProcess(Protocol):
    """What a task's process uses of its operating system."""

    def receive(self) -> tuple[Assignment, str]:
        """The assignment and the script. Ends the process if the agent sends none."""

    def confine(self, assignment: Assignment) -> None:
        """Enter the sandbox. Raises SandboxError, OSError, ImportError."""

    def stop_requested(self) -> bool:
        """Whether the agent has asked the task to end."""

    def ignore_stop(self) -> None:
        """A request to end that arrives from now on has no effect."""

    def send(self, data: bytes) -> None:
        """Write to the channel."""

    def reserve(self, size_bytes: int) -> mmap.mmap:
        """Memory to be freed when the task has used up all that it may."""


def run_assigned(process: ChildProcess, *, setup_error: str = "") -> NoReturn:
    """Run the one task of this process and exit.

    setup_error  an error from before there was a channel to report it on; then nothing is run
    """
    assignment, source = process.receive()
    failure: tuple[FailureKind, str] | None
    try:
        if setup_error:
            raise SandboxError(setup_error)
        process.confine(assignment)
    except (SandboxError, OSError, ImportError) as error:
        text = f"the task could not be confined: {error}"
        _exit_with(process, encode_failure("sandbox", text), status=2)
    gc.enable()
    reserve = process.reserve(_RESERVE_BYTES)
    encoded = b""
    try:
        run = _run_cohort if assignment.others else run_alone
        encoded = run(process, assignment, source)
        failure = None
    except BaseException as error:  # noqa: BLE001  an experiment may raise anything
        reserve.close()
        failure = _explain(error)
    if failure is None:
        _exit_with(process, encoded, status=0)
    _exit_with(process, encode_failure(*failure), status=1)


def text_output(descriptor: int) -> io.TextIOWrapper:
    """Line-buffered, so that the last lines of a killed task are not lost."""
    return open(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False)


def seed_libraries(seed: int) -> None:
    """Seed the global generators too. Experiments should use task.rng; if they use a global one by
    mistake, it depends on the seed instead of being the same in all children of a zygote."""
    import random

    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.default_generator.manual_seed(seed)


def run_alone(process: ChildProcess, assignment: Assignment, source: str) -> bytes:
    """The line with the result of a task that has the process to itself."""
    run = load_run(source, assignment.experiment, assignment.device)
    task = Task(
        seed=assignment.seed,
        parameters=assignment.parameters,
        budget_seconds=assignment.budget_seconds,
        device=assignment.device,
        folder=Path(assignment.policy.folder),
        on_progress=_progress_sender(process),
        stop_requested=lambda _saved: process.stop_requested(),
    )
    return encode_result(_encode_result(run(task), assignment.result_bytes))


def _run_cohort(process: ChildProcess, assignment: Assignment, source: str) -> bytes:
    """The lines of all members: a result each, or the reason why there is none."""
    run_cohort = load_run_cohort(source, assignment.experiment)
    tasks = _cohort(process, assignment)
    results = list(run_cohort(tasks))
    if len(results) != len(tasks):
        raise _ResultUnusable(f"run_cohort returned {len(results)} results for {len(tasks)} tasks")
    return b"".join(
        _member_line(i, result, assignment.result_bytes) for i, result in enumerate(results)
    )


def _cohort(process: ChildProcess, assignment: Assignment) -> list[Task]:
    seeds = [assignment.seed, *(member.seed for member in assignment.others)]
    folders = [assignment.policy.folder, *assignment.policy.folders]
    stop = CohortStop(len(seeds), process.stop_requested)
    return [
        Task(
            seed=seed,
            parameters=dict(assignment.parameters),
            budget_seconds=assignment.budget_seconds,
            device=assignment.device,
            folder=Path(folder),
            on_progress=_progress_sender(process, i),
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


def _progress_sender(process: ChildProcess, member: int | None = None) -> Callable[[float], None]:
    last = 0.0
    interval = PROGRESS_INTERVAL_SECONDS if member is None else COHORT_PROGRESS_INTERVAL_SECONDS

    def send(fraction: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= interval:
            last = now
            process.send(encode_progress(fraction, member))

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


def _exit_with(process: ChildProcess, line: bytes, *, status: int) -> NoReturn:
    """Send the last line and exit at once, without running exit handlers of the experiment."""
    process.ignore_stop()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # the experiment closed or replaced it, and loses only its own output
    process.send(line)
    os._exit(status)
