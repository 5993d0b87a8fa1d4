"""Determines a task's outcome from what was observed of it. Pure.

In order of precedence: why the agent ended it, how its process ended, what the child reported.
"""

from __future__ import annotations

import signal
from typing import Any

from msgspec import Struct

from axiom_client.decide.task_run import TaskLimits
from axiom_client.run.channel import Failure
from axiom_protocol.manifest import Manifest
from axiom_protocol.messages import Outcome
from axiom_protocol.result import ResultRefused, decode_result, gate

MESSAGE_CHARACTERS_MAX = 8_000  # what a report may carry
#: Numbers of signals on Linux and macOS. Windows has neither; its ends are translated into them.
SIGKILL, SIGXCPU = 9, 24


class Ending(Struct, frozen=True):
    """Why the agent ended a task: the outcome that follows, and the message."""

    outcome: Outcome
    message: str
    requested: bool = False  # a stop was requested; False: the task exceeded a limit


class Observation(Struct, frozen=True, kw_only=True):
    """All that is known of a task whose process has ended.

    ending      why the agent ended it; None if it did not
    status      from wait4; None when the parent that would have waited has ended too
    result      the line with its result; None when no complete line arrived
    failure     what the child reported instead of a result
    """

    limits: TaskLimits
    manifest: Manifest
    ending: Ending | None
    status: int | None
    cpu_seconds: float
    result: bytes | None
    failure: Failure | None
    output_tail: str


class TaskOutcome(Struct, frozen=True):
    """The outcome, the gated result on success, and a message otherwise."""

    outcome: Outcome
    result: Any = None
    message: str = ""


def is_cohort_failure(observed: Observation, verdict: TaskOutcome) -> bool:
    """Whether a cohort's process ended badly, so that another member may be the cause.

    A member's own result or failure counts if the process ended normally.
    """
    own = observed.status == 0 and (observed.result is not None or observed.failure is not None)
    stopped = observed.ending is not None and observed.ending.requested
    return not (own or stopped or verdict.outcome in ("success", "lost"))


def judge(observed: Observation) -> TaskOutcome:
    """The outcome for any observation."""
    ending = observed.ending
    finished = observed.status == 0 and observed.result is not None
    if ending is not None and ending.requested:
        if observed.failure is not None and observed.failure.kind == "stopped":
            return TaskOutcome(ending.outcome, message=observed.failure.message)
        ending = None if finished else ending
    if ending is not None:
        return _with_output(ending.outcome, ending.message, observed)
    if finished:
        return _gated(observed)
    if observed.status is None:
        return TaskOutcome(
            "lost", message="the task's parent process was killed, and the task with it"
        )
    return _failed(observed)


def _gated(observed: Observation) -> TaskOutcome:
    assert observed.result is not None
    try:
        return TaskOutcome("success", gate(observed.manifest, decode_result(observed.result)))
    except (
        ResultRefused,
        ArithmeticError,
        RecursionError,
    ) as error:  # a refused result is a failure
        return _with_output("failed", f"the result was refused: {error}", observed)


def _failed(observed: Observation) -> TaskOutcome:
    limits, status = observed.limits, observed.status
    assert status is not None
    number = status & 0x7F  # of the signal that ended it, 0 when it exited
    if number == SIGXCPU or (number == SIGKILL and _cpu_spent(observed)):
        text = f"CPU time: {observed.cpu_seconds:.1f} s used, {limits.cpu_seconds:g} s allowed"
        return _with_output("timed_out", text, observed)
    if observed.failure is not None and number == 0:
        return _from_failure(observed, observed.failure)
    if number == SIGKILL:
        text = "killed from outside, most likely by the kernel because the host's memory ran out"
        return _with_output("lost", text, observed)
    if number and "bad_alloc" in observed.output_tail:
        return _over_memory(observed, "an allocation failed")
    if number:
        text = f"the task's process ended by {_signal_name(number)}"
        return _with_output("failed", text, observed)
    text = f"the task's process exited with code {status >> 8} and no result"
    return _with_output("failed", text, observed)


def _signal_name(number: int) -> str:
    """The signal's name; Python has none for most real-time signals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _cpu_spent(observed: Observation) -> bool:
    return observed.cpu_seconds >= max(1.0, observed.limits.cpu_seconds)


def _from_failure(observed: Observation, failure: Failure) -> TaskOutcome:
    if failure.kind == "memory":
        return _over_memory(observed, failure.message)
    if failure.kind == "gpu_memory":
        return _with_output("over_memory", f"GPU memory: {failure.message}", observed)
    if failure.kind == "disk":
        text = f"disk: {observed.limits.disk_bytes} bytes allowed; {failure.message}"
        return _with_output("over_disk", text, observed)
    if failure.kind == "full_disk":  # not the experiment's fault
        return _with_output("lost", f"the host's disk is full: {failure.message}", observed)
    if failure.kind == "stopped":  # by SIGTERM from outside, or by itself: an attempt like others
        return _with_output("lost", f"the agent did not ask for it: {failure.message}", observed)
    if failure.kind == "error":  # the traceback is in the output too
        return TaskOutcome("failed", message=_tail(failure.message))
    return _with_output("failed", failure.message, observed)


def _over_memory(observed: Observation, words: str) -> TaskOutcome:
    text = f"memory: {observed.limits.memory_bytes} bytes allowed; {words}"
    return _with_output("over_memory", text, observed)


def _with_output(outcome: Outcome, message: str, observed: Observation) -> TaskOutcome:
    if observed.output_tail:
        room = MESSAGE_CHARACTERS_MAX - len(message) - 1
        message = f"{message}\n{_tail(observed.output_tail, room)}"
    return TaskOutcome(outcome, message=message[:MESSAGE_CHARACTERS_MAX])


def _tail(text: str, limit: int = MESSAGE_CHARACTERS_MAX) -> str:
    return text[-limit:] if limit > 0 else ""
