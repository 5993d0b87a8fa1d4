"""Starts, monitors and stops tasks in one asyncio loop, without threads; events go to ``emit``.

Exactly one ``TaskFinished`` follows for every task of a ``start``, whatever happens. The members of
a cohort share one process; commands name it by its first task.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

from axiom_client.decide.task_run import Environment, TaskFinished
from axiom_client.run import system, task_folder
from axiom_client.run.judge import Ending, Observation, is_cohort_failure, judge
from axiom_client.run.prepare import CannotStart, CannotStartNow, prepare
from axiom_client.run.running_task import RunningTask
from axiom_client.run.spec import PlacedTask, TaskEvent, TaskProgressed, TaskStarted
from axiom_client.run.standstill import TICK_SECONDS
from axiom_client.run.writes import Writes, written_bytes_allowed
from axiom_client.run.zygote_messages import Ended, Started, ZygoteMessage
from axiom_client.sandbox import mode
from axiom_protocol.messages import Outcome

USAGE_CHECK_SECONDS = 1.0  # between checks of the running tasks' disk and memory use
USAGE_CHECK_SHARE = 0.1  # of the agent's time at most; the remaining tasks are checked next
USAGE_CHECK_STRETCH_SECONDS = 0.02  # of checking without a break: the event loop is blocked
MAPS_EVERY_CHECKS = 10  # reading /proc/PID/maps takes half a millisecond and is rarely needed


class Pool:
    """The tasks of this host that have a process.

    prefer      warm: fork from a zygote where the task allows it; cold: a new interpreter for each
    background  run only when no other process wants the core; off for tests on a busy machine
    hide_gpus   environment variables that hide every GPU from a process
    """

    def __init__(
        self,
        *,
        emit: Callable[[TaskEvent], None],
        prefer: Literal["warm", "cold"] = "warm",
        background: bool = True,
        hide_gpus: Mapping[str, str] | None = None,
    ) -> None:
        self._emit = emit
        self._background = background
        self._running: dict[int, RunningTask] = {}
        self._usage_timer: asyncio.TimerHandle | None = None
        self._standstill_timer: asyncio.TimerHandle | None = None
        self._unchecked: list[int] = []  # tasks of this round whose usage is not checked yet
        self._changed = asyncio.Event()
        self._mode = mode.choose()
        self._launchers = system.Launchers(
            self._mode,
            self._handle_message,
            self._parent_gone,
            warm=prefer == "warm",
            background=background,
            hide_gpus=hide_gpus or {},
        )
        system.allow_descriptors()

    # ---- commands of the agent

    def start(self, spec: PlacedTask) -> None:
        """Start a task; returns at once."""
        if spec.task_id in self._running:
            raise ValueError(f"task {spec.task_id} is running already")
        try:
            self._start(spec)
        except (CannotStart, OSError) as error:
            here = isinstance(error, (CannotStartNow, OSError))
            outcome: Outcome = "lost" if here else "failed"
            shared = not here and bool(spec.others)
            for task_id in spec.task_ids:
                finished = TaskFinished(
                    task_id=task_id, outcome=outcome, message=str(error), shared=shared
                )
                asyncio.get_running_loop().call_soon(self._emit, finished)

    def pause(self, task_id: int) -> None:
        """Let a task's process stand still; its elapsed time stops too."""
        if (running := self._running.get(task_id)) is not None and not running.paused:
            running.launcher.pause(task_id)
            running.pause()
            self._set_timer(running)

    def resume(self, task_id: int) -> None:
        """Continue a paused task."""
        if (running := self._running.get(task_id)) is not None and running.paused:
            running.resume()
            running.launcher.resume(task_id)
            self._set_timer(running)

    def stop(self, task_id: int, grace_seconds: float, outcome: Outcome = "cancelled") -> None:
        """Ask a task to end, so that it can checkpoint, and kill it after ``grace_seconds``.

        A task that finishes in the meantime is still a success.
        """
        if (running := self._running.get(task_id)) is None:
            return
        if running.ending is None:
            running.ending = Ending(outcome, "stopped by the agent", requested=True)
        running.resume()
        if grace_seconds <= 0:
            self._kill(running)
            return
        running.ask_to_stop()
        self._set_timer(running, grace_seconds)

    def prewarm(self, environment: Environment) -> None:
        """Load an environment's libraries before its first task, where processes can share them."""
        self._launchers.prewarm(environment)

    def allow_standby(self, processes: int) -> None:
        """Keep at most so many processes that wait with loaded libraries, besides zygotes."""
        self._launchers.allow_standby(processes)

    def release_idle(self) -> None:
        """Free the memory of loaded libraries that no task uses."""
        self._launchers.release_idle()

    def zygote_pids(self) -> dict[str, int]:
        """Process ids of zygotes by environment; names of those for GPUs end in "+gpu"."""
        return self._launchers.zygote_pids()

    async def close(self, grace_seconds: float) -> None:
        """Stop every task and zygote; no process of the pool is left when this returns."""
        for task_id in list(self._running):
            self.stop(task_id, grace_seconds)
        while self._running:
            await self._next_change()
        self._launchers.close()
        while not self._launchers.closed:
            await self._next_change()

    # ---- starting

    def _start(self, spec: PlacedTask) -> None:
        if self._mode.mode == "none":
            raise CannotStart(f"no task is run without a sandbox: {self._mode.reason}")
        task_id = spec.task_id
        prepared = prepare(spec, background=self._background, landlock=self._mode.mode == "kernel")
        self._running[task_id] = RunningTask(
            spec,
            prepared.manifest,
            self._launchers.for_task(spec, prepared.policy),
            prepared.assignment,
            progressed=partial(self._progressed, task_id),
            end=lambda ending: self._end(task_id, ending),
            changed=lambda: self._finish_if_complete(task_id),
        )
        self._schedule_usage_check()
        self._schedule_standstill_check()

    # ---- watching

    def _progressed(self, task_id: int, member: int, fraction: float) -> None:
        running = self._running.get(task_id)
        if running is not None and running.pid is None:
            running.early_progress[member] = fraction  # it overtook the zygote's Started message
        elif running is not None:
            own_id = running.spec.task_ids[member]
            self._emit(TaskProgressed(task_id=own_id, fraction=fraction))

    def _handle_message(self, message: ZygoteMessage) -> None:
        if not isinstance(message, (Started, Ended)):
            return
        if (running := self._running.get(message.task_id)) is None:
            return
        if isinstance(message, Started):
            running.began(message.pid, message.at, message.cpu_seconds)
            if system.LIMITS_MEMORY:  # elsewhere RUNTIME_BYTES are allowed for the libraries
                running.memory_at_start = system.resident_bytes(message.pid)
            for task_id in running.spec.task_ids:
                self._emit(TaskStarted(task_id=task_id, pid=message.pid))
            for member, fraction in running.early_progress.items():
                self._progressed(message.task_id, member, fraction)
            self._set_timer(running)
        else:
            running.ended = message
            self._finish_if_complete(message.task_id)

    def _parent_gone(self, task_ids: set[int], broken: str) -> None:
        """The process that these tasks were forked from has ended, and they with it."""
        for task_id in sorted(task_ids):
            if (running := self._running.get(task_id)) is None:
                continue  # it could not even be started
            running.parent_gone = True
            if broken and running.ending is None:
                running.ending = Ending("failed", broken)
            self._finish_if_complete(task_id)
        self._changed.set()

    def _finish_if_complete(self, task_id: int) -> None:
        """Emit the task's end if its process has ended and everything it sent was read."""
        running = self._running.get(task_id)
        if running is None or not running.complete():
            return
        del self._running[task_id]
        _over_disk(running, Writes())
        running.close()
        for member in range(running.members):
            self._emit(_finished(running, member))
        self._changed.set()

    # ---- ending

    def _end(self, task_id: int, ending: Ending) -> None:
        running = self._running.get(task_id)
        if running is not None and _may_set_ending(running):
            running.ending = ending
            self._kill(running)

    def _kill(self, running: RunningTask) -> None:
        running.launcher.kill(running.spec.task_id)

    def _set_timer(self, running: RunningTask, grace_seconds: float | None = None) -> None:
        """Set the timer for the end of the wall time, or of the grace period of a stop."""
        if grace_seconds is None and running.ending is not None:
            return  # it is being stopped; its grace period stays
        if running.timer is not None:
            running.timer.cancel()
            running.timer = None
        loop = asyncio.get_running_loop()
        if grace_seconds is not None:
            running.timer = loop.call_later(grace_seconds, self._kill, running)
        elif not running.paused and running.pid is not None:
            left = running.spec.limits.wall_seconds - running.slot_seconds()
            running.timer = loop.call_later(max(0.0, left), self._check_wall_time, running)

    def _check_wall_time(self, running: RunningTask) -> None:
        allowed = running.spec.limits.wall_seconds
        if running.slot_seconds() < allowed:
            self._set_timer(running)
            return
        text = f"elapsed time: {running.slot_seconds():.1f} s, {allowed:g} s allowed"
        self._end(running.spec.task_id, Ending("timed_out", text))

    def _schedule_standstill_check(self) -> None:
        if self._standstill_timer is None and self._running:
            loop = asyncio.get_running_loop()
            self._standstill_timer = loop.call_later(TICK_SECONDS, self._check_standstills)

    def _check_standstills(self) -> None:
        """Sample every task, so that a standstill shows as a gap between samples."""
        self._standstill_timer = None
        for running in self._running.values():
            running.find_standstill()
        self._schedule_standstill_check()

    def _schedule_usage_check(self, delay: float = USAGE_CHECK_SECONDS) -> None:
        if self._usage_timer is None and self._running:
            loop = asyncio.get_running_loop()
            self._usage_timer = loop.call_later(delay, self._check_usage)

    def _check_usage(self) -> None:
        """Check some tasks now and the others next: folders with many files take long."""
        self._usage_timer = None
        self._unchecked = self._unchecked or sorted(self._running)
        begun = time.monotonic()
        while self._unchecked and time.monotonic() - begun < USAGE_CHECK_STRETCH_SECONDS:
            running = self._running.get(self._unchecked.pop())
            if running is not None and not running.paused and self._over_a_limit(running):
                self._kill(running)
        pause = (time.monotonic() - begun) / USAGE_CHECK_SHARE
        self._schedule_usage_check(pause if self._unchecked else max(pause, USAGE_CHECK_SECONDS))

    def _over_a_limit(self, running: RunningTask) -> bool:
        done = Writes() if running.pid is None else system.writes(running.pid)
        return _over_disk(running, done) or _over_writes(running, done) or _over_memory(running)

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _over_disk(running: RunningTask, done: Writes) -> bool:
    """Whether the task uses more disk than allowed, or made a folder that cannot be measured."""
    allowed = running.spec.limits.disk_bytes
    usage = _folder_usage(running)
    size = usage.size_bytes + _deleted_bytes(running, done)
    many = usage.files > task_folder.FILES_MAX
    over = size > allowed + task_folder.SLACK_BYTES or many or bool(usage.problem)
    if over and _may_set_ending(running):
        text = f"disk: {size} bytes in {usage.files} files; {allowed} bytes are allowed, and "
        text += f"{task_folder.FILES_MAX} files"
        problem = usage.problem and f"disk: {usage.problem}"
        running.ending = Ending("over_disk", problem or text)
    return over


def _folder_usage(running: RunningTask) -> task_folder.FolderUsage:
    """What all folders of the process hold together."""
    total = task_folder.FolderUsage()
    for folder in running.spec.folders:
        usage = task_folder.measure(folder)
        total.size_bytes += usage.size_bytes
        total.files += usage.files
        total.problem = total.problem or usage.problem
        if total.problem or total.files > task_folder.FILES_MAX:
            break  # a cohort has hundreds of folders, and the agent waits while they are counted
    return total


def _deleted_bytes(running: RunningTask, done: Writes) -> int:
    if running.pid is None or running.ended is not None:
        return 0
    allowed = running.spec.limits.disk_bytes
    written_bytes = max(done.storage_bytes, done.call_bytes)
    running.usage_checks += 1
    return system.deleted_bytes(
        running.pid,
        [os.path.realpath(folder) for folder in running.spec.folders],
        allowed,
        written_bytes,
        read_maps=written_bytes > allowed or running.usage_checks % MAPS_EVERY_CHECKS == 0,
    )


def _over_writes(running: RunningTask, done: Writes) -> bool:
    """Whether the task has written more than allowed by now."""
    written = done.storage_bytes
    allowed = written_bytes_allowed(running.spec.limits, running.elapsed_seconds())
    over = written > allowed
    if over and _may_set_ending(running):
        text = f"disk: {written} bytes written in all, {allowed} allowed by now"
        running.ending = Ending("over_disk", text)
    return over


def _over_memory(running: RunningTask) -> bool:
    """Whether a task holds more memory than allowed, where the system itself does not limit it."""
    driver = running.spec.driver
    if running.pid is None or (driver is None and system.LIMITS_MEMORY):
        return False
    held = system.resident_bytes(running.pid) - running.memory_at_start
    allowed = running.spec.limits.memory_bytes
    taken = (driver.memory_bytes if driver else 0) + system.RUNTIME_BYTES
    over = held > allowed + taken
    if over and _may_set_ending(running):
        text = f"memory: {allowed} bytes allowed; the task held {held - taken}"
        running.ending = Ending("over_memory", text)
    return over


def _may_set_ending(running: RunningTask) -> bool:
    """The first exceeded limit determines the outcome, also after a stop that was requested."""
    return running.ending is None or running.ending.requested


def _finished(running: RunningTask, member: int) -> TaskFinished:
    """The end of one task; a member of a cohort gets an equal share of the process's time."""
    ended, members = running.ended, running.members
    user, system = (ended.user_seconds, ended.system_seconds) if ended else (0.0, 0.0)
    observed = Observation(
        limits=running.spec.limits,
        manifest=running.manifest,
        ending=running.ending,
        status=ended.status if ended else None,
        cpu_seconds=user + system,
        result=running.results.get(member),
        failure=running.failure or running.failures.get(member),
        output_tail=running.output_tail(),
    )
    verdict = judge(observed)
    return TaskFinished(
        task_id=running.spec.task_ids[member],
        outcome=verdict.outcome,
        result=verdict.result,
        message=verdict.message,
        elapsed_seconds=running.elapsed_seconds() / members,
        cpu_user_seconds=user / members,
        cpu_system_seconds=system / members,
        peak_memory_bytes=ended.peak_memory_bytes if ended else 0,
        shared=members > 1 and is_cohort_failure(observed, verdict),
        core_kind=running.core_kind,
    )
