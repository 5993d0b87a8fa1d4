"""Start tasks, watch them, stop them. One asyncio loop, no threads; events go to ``emit``.

Exactly one ``TaskFinished`` follows for every ``start``, whatever happens.
"""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

from axiom_client.decide.task_run import Environment, TaskFinished
from axiom_client.run import disk, memory
from axiom_client.run.judge import Ending, Observation, judge
from axiom_client.run.launchers import BubblewrappedProcess, ColdProcess, Launcher, Zygote
from axiom_client.run.prepare import CannotStart, CannotStartNow, prepare
from axiom_client.run.running_task import RunningTask
from axiom_client.run.spec import PlacedTask, TaskEvent, TaskProgressed, TaskStarted
from axiom_client.run.zygote_messages import Ended, Started, ZygoteMessage
from axiom_client.sandbox import mode
from axiom_client.sandbox.policy import Policy
from axiom_protocol.messages import Outcome

DESCRIPTORS_MAX = 65_536  # more than any host's tasks need; children lower it for themselves
USAGE_CHECK_SECONDS = 1.0  # between looks at the folders of running tasks; only while some run


class Pool:
    """The tasks of this host that have a process.

    prefer      warm: fork from a zygote where the task allows it; cold: exec each one
    background  run them only when nothing else wants the core; off for tests on a busy machine
    hide_gpus   environment variables that keep a process from every GPU
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
        self._warm = prefer == "warm"
        self._background = background
        self._hide_gpus = hide_gpus or {}
        self._running: dict[int, RunningTask] = {}
        self._zygotes: dict[tuple[Environment, bool], Zygote] = {}
        self._leaving: set[Zygote] = set()
        self._usage_timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._mode = mode.choose()
        _allow_descriptors()

    # ---- what the agent asks

    def start(self, spec: PlacedTask) -> None:
        """Run a task. Returns at once."""
        if spec.task_id in self._running:
            raise ValueError(f"task {spec.task_id} is running already")
        try:
            self._start(spec)
        except (CannotStart, OSError) as error:
            here = isinstance(error, (CannotStartNow, OSError))
            outcome: Outcome = "lost" if here else "failed"
            finished = TaskFinished(task_id=spec.task_id, outcome=outcome, message=str(error))
            asyncio.get_running_loop().call_soon(self._emit, finished)

    def pause(self, task_id: int) -> None:
        """Freeze a task; its clock stops."""
        if (running := self._running.get(task_id)) is not None and not running.paused:
            running.launcher.signal(task_id, [signal.SIGSTOP])
            running.pause()
            self._set_timer(running)

    def resume(self, task_id: int) -> None:
        """Let a frozen task go on."""
        if (running := self._running.get(task_id)) is not None and running.paused:
            running.resume()
            running.launcher.signal(task_id, [signal.SIGCONT])
            self._set_timer(running)

    def stop(self, task_id: int, grace_seconds: float, outcome: Outcome = "cancelled") -> None:
        """Ask a task to end, so that it may checkpoint, and kill it after ``grace_seconds``.

        A task that finishes meanwhile is a success all the same.
        """
        if (running := self._running.get(task_id)) is None:
            return
        if running.ending is None:
            running.ending = Ending(outcome, "stopped by the agent", polite=True)
        running.resume()
        if grace_seconds <= 0:
            self._kill(running)
            return
        running.launcher.signal(task_id, [signal.SIGCONT, signal.SIGTERM])
        self._set_timer(running, grace_seconds)

    def prewarm(self, environment: Environment) -> None:
        """Start the zygote of an environment ahead of its first task."""
        if self._warm and self._mode.mode == "kernel":
            self._zygote(environment, gpu=False)

    def release_idle(self) -> None:
        """Let go of every zygote that has no task; its memory is the volunteer's again."""
        for zygote in list(self._zygotes.values()):
            if not zygote.tasks:
                self._release(zygote)

    def zygote_pids(self) -> dict[str, int]:
        """The process id of each living zygote, by environment; those for GPUs end in "+gpu"."""
        names = {key: f"{key[0]}+gpu" if key[1] else key[0] for key in sorted(self._zygotes)}
        return {name: self._zygotes[key].pid for key, name in names.items()}

    async def close(self, grace_seconds: float) -> None:
        """Stop every task and zygote. Nothing of the pool's lives when this returns."""
        for task_id in list(self._running):
            self.stop(task_id, grace_seconds)
        while self._running:
            await self._next_change()
        for zygote in list(self._zygotes.values()):
            self._release(zygote)
            zygote.kill()
        while self._leaving:
            await self._next_change()

    # ---- starting

    def _start(self, spec: PlacedTask) -> None:
        if self._mode.mode == "none":
            raise CannotStart(f"no work is run unconfined: {self._mode.reason}")
        task_id = spec.task_id
        prepared = prepare(spec, background=self._background, landlock=self._mode.mode == "kernel")
        self._running[task_id] = RunningTask(
            spec,
            prepared.manifest,
            self._launcher(spec, prepared.policy),
            prepared.assignment,
            progressed=partial(self._progressed, task_id),
            end=lambda ending: self._end(task_id, ending),
            changed=lambda: self._finish_if_complete(task_id),
        )
        self._schedule_usage_check()

    def _launcher(self, spec: PlacedTask, policy: Policy) -> Launcher:
        gpu = policy.driver is not None
        variables = {} if gpu else self._hide_gpus  # a GPU task's own come with its policy
        if self._mode.mode == "bubblewrap":
            return BubblewrappedProcess(self._handle_message, variables, self._mode.helper, policy)
        if self._warm and (spec.environment == "torch" or not gpu):
            return self._zygote(spec.environment, gpu)
        return ColdProcess(self._handle_message, variables)

    def _zygote(self, environment: Environment, gpu: bool) -> Zygote:
        if (environment, gpu) not in self._zygotes:
            self._zygotes[environment, gpu] = Zygote(
                environment,
                self._handle_message,
                self._zygote_gone,
                gpu=gpu,
                variables={} if gpu else self._hide_gpus,
                background=self._background,
            )
        return self._zygotes[environment, gpu]

    # ---- watching

    def _progressed(self, task_id: int, fraction: float) -> None:
        self._emit(TaskProgressed(task_id=task_id, fraction=fraction))

    def _handle_message(self, message: ZygoteMessage) -> None:
        if not isinstance(message, (Started, Ended)):
            return
        if (running := self._running.get(message.task_id)) is None:
            return
        if isinstance(message, Started):
            running.began(message.pid, message.at)
            running.memory_at_start = memory.resident_bytes(message.pid)
            self._emit(TaskStarted(task_id=message.task_id, pid=message.pid))
            self._set_timer(running)
        else:
            running.ended = message
            self._finish_if_complete(message.task_id)

    def _zygote_gone(self, zygote: Zygote) -> None:
        self._leaving.discard(zygote)
        self._forget(zygote)
        for task_id in sorted(zygote.tasks):
            if (running := self._running.get(task_id)) is None:
                continue  # it could not even be started
            running.orphaned = True
            if zygote.broken and running.ending is None:
                text = f"the environment {zygote.environment} cannot be loaded:\n{zygote.broken}"
                running.ending = Ending("failed", text)
            self._finish_if_complete(task_id)
        self._changed.set()

    def _finish_if_complete(self, task_id: int) -> None:
        """Finish the task when nothing more can come of it."""
        running = self._running.get(task_id)
        if running is None or not running.complete():
            return
        del self._running[task_id]
        self._check_disk(running)
        running.close()
        self._emit(_finished(running))
        self._changed.set()

    # ---- ending

    def _end(self, task_id: int, ending: Ending) -> None:
        running = self._running.get(task_id)
        if running is not None and _may_end(running):
            running.ending = ending
            self._kill(running)

    def _kill(self, running: RunningTask) -> None:
        running.launcher.signal(running.spec.task_id, [signal.SIGKILL])

    def _set_timer(self, running: RunningTask, grace_seconds: float | None = None) -> None:
        """Wake when the wall time, or the grace of a stop, is over."""
        if grace_seconds is None and running.ending is not None:
            return  # it is being stopped; the grace stands
        if running.timer is not None:
            running.timer.cancel()
            running.timer = None
        loop = asyncio.get_running_loop()
        if grace_seconds is not None:
            running.timer = loop.call_later(grace_seconds, self._kill, running)
        elif not running.paused and running.pid is not None:
            left = running.spec.limits.wall_seconds - running.elapsed_seconds()
            running.timer = loop.call_later(max(0.0, left), self._overdue, running)

    def _overdue(self, running: RunningTask) -> None:
        allowed = running.spec.limits.wall_seconds
        if running.elapsed_seconds() < allowed:
            self._set_timer(running)
            return
        text = f"elapsed time: {running.elapsed_seconds():.1f} s, {allowed:g} s allowed"
        self._end(running.spec.task_id, Ending("timed_out", text))

    def _schedule_usage_check(self) -> None:
        if self._usage_timer is None and self._running:
            loop = asyncio.get_running_loop()
            self._usage_timer = loop.call_later(USAGE_CHECK_SECONDS, self._check_usage)

    def _check_usage(self) -> None:
        self._usage_timer = None
        for running in list(self._running.values()):
            if not running.paused and (self._check_disk(running) or _over_memory(running)):
                self._kill(running)
        self._schedule_usage_check()

    def _check_disk(self, running: RunningTask) -> bool:
        allowed = running.spec.limits.disk_bytes
        bytes_, files = disk.used(running.spec.folder, running.pid)
        over = bytes_ > allowed + disk.SLACK_BYTES or files > disk.FILES_MAX
        if over and _may_end(running):
            text = f"disk: {bytes_} bytes in {files} files; {allowed} bytes are allowed"
            running.ending = Ending("over_disk", f"{text}, and {disk.FILES_MAX} files")
        return over

    def _release(self, zygote: Zygote) -> None:
        self._forget(zygote)
        self._leaving.add(zygote)
        zygote.close()

    def _forget(self, zygote: Zygote) -> None:
        key = (zygote.environment, zygote.gpu)
        if self._zygotes.get(key) is zygote:
            del self._zygotes[key]

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _over_memory(running: RunningTask) -> bool:
    """Whether a task on a GPU holds more than it may; the kernel holds all others to it."""
    driver = running.spec.driver
    if driver is None or running.pid is None:
        return False
    held = memory.resident_bytes(running.pid) - running.memory_at_start
    allowed = running.spec.limits.memory_bytes
    over = held > allowed + driver.memory_bytes
    if over and _may_end(running):
        text = f"memory: {allowed} bytes allowed; the task held {held - driver.memory_bytes}"
        running.ending = Ending("over_memory", text)
    return over


def _allow_descriptors() -> None:
    """A task takes up to four of ours; the usual soft limit of 1,024 is short for 240 cores."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _may_end(running: RunningTask) -> bool:
    """The first limit that is passed names the outcome; a stop by the agent gives way to it."""
    return running.ending is None or running.ending.polite


def _finished(running: RunningTask) -> TaskFinished:
    ended = running.ended
    user, system = (ended.user_seconds, ended.system_seconds) if ended else (0.0, 0.0)
    verdict = judge(
        Observation(
            limits=running.spec.limits,
            manifest=running.manifest,
            ending=running.ending,
            status=ended.status if ended else None,
            cpu_seconds=user + system,
            result=running.result,
            failure=running.failure,
            output_tail=running.output_tail(),
        )
    )
    return TaskFinished(
        task_id=running.spec.task_id,
        outcome=verdict.outcome,
        result=verdict.result,
        message=verdict.message,
        elapsed_seconds=running.elapsed_seconds(),
        cpu_user_seconds=user,
        cpu_system_seconds=system,
        peak_memory_bytes=ended.peak_memory_bytes if ended else 0,
    )
