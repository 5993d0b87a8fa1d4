"""The agent's side of a running task: its messages, its output and its elapsed time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from axiom_client.run.channel import (
    ERROR_BYTES_MAX,
    PROGRESS_BYTES_FREE,
    PROGRESS_BYTES_PER_SECOND,
    PROGRESS_INTERVAL_SECONDS,
    READS_FREE,
    READS_PER_SECOND,
    Failure,
    split_member,
)
from axiom_client.run.judge import Ending
from axiom_client.run.launchers import Launcher
from axiom_client.run.spec import PlacedTask
from axiom_client.run.standstill import GAP_SECONDS, Sample, standstill_seconds
from axiom_client.run.system import Streams, sample
from axiom_client.run.zygote_messages import Ended
from axiom_protocol.manifest import Manifest

FULL_RESULTS_MAX = 16  # a cohort's results are together at most this many of the largest allowed
_TAIL_BYTES = 16 * 1024  # of the output; the report contains half of it


class RunningTask:
    """One process between its start and its end: of one task, or of a cohort's members.

    progressed  called with a member's number and each fraction that it reports
    end         called when the task exceeds a limit
    changed     called after each event that may complete the task
    """

    def __init__(
        self,
        spec: PlacedTask,
        manifest: Manifest,
        launcher: Launcher,
        assignment: bytes,
        *,
        progressed: Callable[[int, float], None],
        end: Callable[[Ending], None],
        changed: Callable[[], None],
    ) -> None:
        self.spec, self.manifest, self.launcher = spec, manifest, launcher
        self.pid: int | None = None
        self.ending: Ending | None = None
        self.ended: Ended | None = None
        self.parent_gone = False
        self.members = len(spec.task_ids)
        self.early_progress: dict[int, float] = {}  # reported before the start was
        self.memory_at_start = 0  # bytes that the process held before the task ran
        self.cpu_seconds_at_start = 0.0  # that it had used to load libraries
        self.usage_checks = 0
        self._samples = self._slow_samples = 0  # with a known core; on an efficiency core
        self.results: dict[int, bytes] = {}  # by member
        self.failures: dict[int, Failure] = {}
        self.failure: Failure | None = None  # of the whole process
        self.timer: asyncio.TimerHandle | None = None
        self._progressed, self._end, self._changed = progressed, end, changed
        self._line = bytearray()
        self._progress_at = dict.fromkeys(range(self.members), float("-inf"))
        self._result_bytes = 0
        self._reads = {"channel": 0, "output": 0}
        self._progress_bytes = self._output_bytes = 0
        self._tail = bytearray()
        self._started_at = self._paused_at = None  # type: float | None
        self._paused_seconds = self._standstill_seconds = 0.0
        self._stopped_seconds = 0.0  # of the standstills, those of this task alone
        self._last_sample = Sample(0.0)
        self._streams = Streams(assignment, self._receive_message, self._read_output)
        self._open()

    def _open(self) -> None:
        with self._streams.child_ends() as ends:
            try:
                self.launcher.start(self.spec.task_id, ends)
            except OSError:
                self.close()
                raise
        self._streams.send()

    def ask_to_stop(self) -> None:
        """Ask the task to end, so that it can write a checkpoint."""
        self._streams.ask_to_stop()
        self.launcher.ask_to_stop(self.spec.task_id)

    # ---- elapsed time

    def began(self, pid: int, at: float, cpu_seconds: float = 0.0) -> None:
        """The task has a process, which used ``cpu_seconds`` before: count its elapsed time."""
        self.pid, self._started_at, self.cpu_seconds_at_start = pid, at, cpu_seconds
        self._last_sample = Sample(at)
        if self._paused_at is not None:
            self._paused_at = at

    def pause(self) -> None:
        """Stop counting elapsed time."""
        if self._paused_at is None:
            self.find_standstill()
            self._paused_at = time.monotonic()

    def resume(self) -> None:
        """Continue counting elapsed time."""
        if self._paused_at is not None:
            if self._started_at is not None:
                self._paused_seconds += time.monotonic() - self._paused_at
            self.find_standstill()
            self._paused_at = None

    @property
    def paused(self) -> bool:
        """Whether the task is paused."""
        return self._paused_at is not None

    def find_standstill(self) -> None:
        """Take a sample; exclude a standstill since the last one that the agent did not order."""
        if self.pid is None:
            return
        last, now = self._last_sample, self._sampled(self.pid)
        if now.core is not None and now.cpu_seconds > last.cpu_seconds:
            self._samples += 1
            self._slow_samples += now.core in self.spec.slow
        if self._paused_at is None:
            seconds = standstill_seconds(self._until(last.at), last, now)
            self._standstill_seconds += seconds
            if last.stopped and now.stopped and now.at - last.at < GAP_SECONDS:
                self._stopped_seconds += seconds  # this task alone: the agent was not stopped
        self._last_sample = now

    def _sampled(self, pid: int) -> Sample:
        if (ended := self.ended) is not None:
            return Sample(ended.at, ended.user_seconds + ended.system_seconds)
        found = sample(pid, time.monotonic())
        own_seconds = max(0.0, found.cpu_seconds - self.cpu_seconds_at_start)
        return Sample(found.at, own_seconds, found.stopped, found.core)

    @property
    def core_kind(self) -> str:
        """ "efficiency" if the task ran mostly on such cores; else empty."""
        return "efficiency" if 2 * self._slow_samples > self._samples else ""

    def elapsed_seconds(self) -> float:
        """Monotonic time since the process started, without pauses and standstills."""
        now = self.ended.at if self.ended is not None else time.monotonic()
        if now - self._last_sample.at >= GAP_SECONDS:
            self.find_standstill()  # this may be called before the next tick
        return self._until(now if self._paused_at is None else min(now, self._paused_at))

    def slot_seconds(self) -> float:
        """Elapsed time plus the standstills of this task alone, when it still held its slot."""
        return self.elapsed_seconds() + self._stopped_seconds

    def _until(self, at: float) -> float:
        if self._started_at is None:
            return 0.0
        return max(0.0, at - self._started_at - self._paused_seconds - self._standstill_seconds)

    # ---- messages and output

    def complete(self) -> bool:
        """Whether the process has ended and everything it sent was read."""
        return (self.ended is not None or self.parent_gone) and not (
            self._streams.channel.open or self._streams.output.open
        )

    def output_tail(self) -> str:
        """The last part of the task's output."""
        return self._tail.decode(errors="replace").strip()

    def close(self) -> None:
        """Close every descriptor that is still open."""
        if self.timer is not None:
            self.timer.cancel()
        self._streams.close_channel()
        self._streams.close_output()

    def _receive_message(self, data: bytes) -> None:
        if not data:
            self._streams.close_channel()
            self._changed()
            return
        self._line += data
        if b"\n" in data:
            *lines, rest = self._line.split(b"\n")
            self._line = rest
            for line in lines:
                if self._streams.channel.open:
                    self._handle_line(bytes(line))
        allowed = self.spec.limits.result_bytes
        line_bytes_max = allowed + (2 if self.members == 1 else 7)  # with letter and member number
        if len(self._line) > max(line_bytes_max, ERROR_BYTES_MAX):
            self._refuse_channel(f"result: more than the {allowed} bytes that are accepted")
        if self._too_often("channel"):
            self._streams.channel.pause()

    def _too_often(self, name: str) -> bool:
        """Count a read; whether there were more than a correct child causes."""
        self._reads[name] += 1
        return self._reads[name] > READS_FREE + READS_PER_SECOND * self.elapsed_seconds()

    def _refuse_channel(self, text: str) -> None:
        """End the task and stop reading its channel: it sent more than allowed."""
        self._line.clear()
        self._streams.close_channel()
        self._end(Ending("failed", text))
        self._changed()

    def _handle_line(self, line: bytes) -> None:
        member, line = (0, line) if self.members == 1 else split_member(line, self.members)
        kind = line[:1]
        if kind == b"r" and member is not None and self._awaits(member):
            self._keep_result(member, line[1:])
        elif kind == b"e" and self._awaits(member) and (failure := _failure(line)) is not None:
            if member is None or self.members == 1:
                self.failure = failure
            else:
                self.failures[member] = failure
        elif self._within_allowance(line) and kind == b"p" and member is not None:
            self._handle_progress(member, line)

    def _awaits(self, member: int | None) -> bool:
        """Whether neither a result nor a failure of this member has arrived."""
        reported = self.results.keys() | self.failures.keys()
        return self.failure is None and (member is None or member not in reported)

    def _keep_result(self, member: int, encoded: bytes) -> None:
        self.results[member] = encoded
        self._result_bytes += len(encoded)
        allowed = self.spec.limits.result_bytes * min(self.members, FULL_RESULTS_MAX)
        if self.members > 1 and self._result_bytes > allowed:
            self._refuse_channel(f"results: more than the {allowed} bytes that a cohort may return")

    def _within_allowance(self, line: bytes) -> bool:
        """Whether the lines that are neither result nor failure are within the allowed bytes."""
        self._progress_bytes += len(line) + 1
        steady = PROGRESS_BYTES_PER_SECOND * self.members
        allowed = PROGRESS_BYTES_FREE + steady * self.elapsed_seconds()
        if self._progress_bytes > allowed and self._streams.channel.open:
            text = f"progress: {self._progress_bytes} bytes sent, {allowed:.0f} allowed"
            self._refuse_channel(text)
        return self._progress_bytes <= allowed

    def _handle_progress(self, member: int, line: bytes) -> None:
        try:
            fraction = float(line[1:])
        except ValueError:
            return
        now = time.monotonic()
        often = now - self._progress_at[member] < PROGRESS_INTERVAL_SECONDS / 2
        if 0.0 <= fraction <= 1.0 and not often:
            self._progress_at[member] = now
            self._progressed(member, fraction)

    def _read_output(self, data: bytes) -> None:
        if not data:
            self._streams.close_output()
            self._changed()
            return
        self._output_bytes += len(data)
        self._tail += data
        del self._tail[:-_TAIL_BYTES]
        allowed = self.spec.limits.output_bytes
        if self._output_bytes > allowed:
            text = f"output: more than the {allowed} bytes that a task may print"
            self._streams.close_output()
            self._end(Ending("over_disk", text))
            self._changed()
            return
        if self._too_often("output"):
            self._streams.output.pause()


def _failure(line: bytes) -> Failure | None:
    """The child's failure message; None when it is too long or malformed."""
    if len(line) > ERROR_BYTES_MAX:
        return None
    try:
        return msgspec.json.decode(line[1:], type=Failure)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
