"""Standby processes, on systems without fork: each waits, with libraries loaded, for one task.

Which processes are kept, and when they end; ``posix_standby`` and ``windows_standby`` are the
processes themselves. A task takes a process only when it is ready, and otherwise starts in a new
interpreter: whatever happens to a standby process costs time and no task. None serves two tasks,
because a process cannot leave its sandbox. See docs/decisions/0015-standby-processes.md.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import psutil

from axiom_client.decide.task_run import Environment
from axiom_client.run.launchers import Launcher

TICK_SECONDS = 5.0  # between checks while any process waits or is wanted
# Counted in ticks, so that a host's sleep does not count:
LOAD_TICKS_MAX = 24  # torch from a cold disk takes a minute
IDLE_TICKS = 24  # an environment without tasks; the agent ends all of them after the same time
RETRY_TICKS = 60  # after a process that ended by itself
TASKS_PER_STANDBY = 8  # torch loads in 2 to 3 s: enough where tasks take 25 s and longer
#: Started only while so much memory is free, and ended when less than a half of it is.
FREE_MEMORY_SHARE = 0.1

log = logging.getLogger("axiom_client")


class Standby(Launcher, Protocol):
    """A process without a task. ``gone``: it has ended; ``problem``: why, if it said so."""

    environment: Environment
    pid: int
    ready: bool
    gone: bool
    problem: str

    def end(self) -> None:
        """End it at once; it has no task."""


StandbyT = TypeVar("StandbyT", bound=Standby)


def free_memory_share() -> float:
    """How much of the host's memory other programs could take now."""
    memory = psutil.virtual_memory()
    return float(memory.available / memory.total)


class StandbyProcesses(Generic[StandbyT]):
    """The processes that wait. ``make`` starts one, and ``changed`` is to be called by it."""

    def __init__(self, make: Callable[[Environment], StandbyT]) -> None:
        self._make = make
        self._allowed = 0
        self._waiting: list[StandbyT] = []
        self._ticks: dict[int, int] = {}  # since its start, by process id
        self._ending: set[int] = set()  # process ids
        self._idle_ticks: dict[Environment, int] = {}  # of each environment that may be wanted
        self._retry_ticks: dict[Environment, int] = {}
        self._expected: dict[int, Environment] = {}  # tasks that are about to start
        self._tasks: dict[int, Environment] = {}  # tasks that run
        self._timer: asyncio.TimerHandle | None = None

    def allow(self, processes: int) -> None:
        """Keep at most so many, of all environments together."""
        self._allowed = processes
        self._keep()

    def want(self, environment: Environment) -> None:
        """A task of this environment is expected."""
        self._idle_ticks[environment] = 0
        self._keep()

    def take(self, environment: Environment, task_id: int) -> StandbyT | None:
        """A ready process for this task, which has it from now on. None: there is none."""
        self._expected[task_id] = environment
        self._idle_ticks[environment] = 0
        for process in self._waiting:
            if process.environment == environment and process.ready:
                self._forget(process)
                return process
        return None

    def task_started(self, task_id: int) -> None:
        """This task has a process; only now is the next one started, so as not to delay it."""
        if (environment := self._expected.pop(task_id, None)) is not None:
            self._tasks[task_id] = environment
            self._keep()

    def task_ended(self, task_id: int) -> None:
        """This task does not run any more."""
        self._tasks.pop(task_id, None)

    def release(self) -> None:
        """End every process, until another task is expected."""
        self._idle_ticks.clear()
        self._expected.clear()
        self._keep()

    def pids(self) -> dict[str, list[int]]:
        """Process ids by environment."""
        found: dict[str, list[int]] = {}
        for process in self._waiting:
            found.setdefault(process.environment, []).append(process.pid)
        return found

    @property
    def closed(self) -> bool:
        """Whether no process is left that was ended here."""
        return not self._ending

    def changed(self, process: StandbyT) -> None:
        """It is ready, or it has ended without a task."""
        if not process.gone:
            return
        self._ticks.pop(process.pid, None)
        if process.pid in self._ending:
            self._ending.discard(process.pid)
        elif process in self._waiting:
            self._fail(process, process.problem or "it ended by itself")
        self._keep()

    # ---- how many

    def _keep(self) -> None:
        """Start what is missing, end what is too much."""
        wanted = self._wanted()
        for process in reversed(self._waiting.copy()):  # the youngest first
            if self._count(process.environment) > wanted[process.environment]:
                self._end(process)
        for environment, number in wanted.items():
            while self._count(environment) < number and self._may_start(environment):
                self._start(environment)
        self._schedule()

    def _wanted(self) -> Counter[Environment]:
        """How many of each environment, the one with most tasks first."""
        running = Counter(self._tasks.values())
        left, wanted = self._allowed, Counter[Environment]()
        for environment in sorted(self._idle_ticks, key=lambda known: (-running[known], known)):
            share = max(1, math.ceil(running[environment] / TASKS_PER_STANDBY))
            wanted[environment] = min(left, share)
            left -= wanted[environment]
        return wanted

    def _count(self, environment: Environment) -> int:
        return sum(process.environment == environment for process in self._waiting)

    def _may_start(self, environment: Environment) -> bool:
        return environment not in self._retry_ticks and free_memory_share() >= FREE_MEMORY_SHARE

    def _start(self, environment: Environment) -> None:
        try:
            process = self._make(environment)
        except OSError as error:
            self._put_off(environment, str(error))
            return
        self._waiting.append(process)
        self._ticks[process.pid] = 0

    def _end(self, process: StandbyT) -> None:
        self._forget(process)
        if not process.gone:
            self._ending.add(process.pid)
            process.end()

    def _forget(self, process: StandbyT) -> None:
        self._waiting.remove(process)
        self._ticks.pop(process.pid, None)

    def _fail(self, process: StandbyT, reason: str) -> None:
        self._end(process)
        self._put_off(process.environment, reason)

    def _put_off(self, environment: Environment, reason: str) -> None:
        log.warning("%s cannot be loaded ahead; tasks load it themselves: %s", environment, reason)
        self._retry_ticks[environment] = RETRY_TICKS

    # ---- time

    def _schedule(self) -> None:
        if self._timer is None and (self._waiting or self._idle_ticks or self._retry_ticks):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for environment in list(self._retry_ticks):
            self._retry_ticks[environment] -= 1
            if not self._retry_ticks[environment]:
                del self._retry_ticks[environment]
        self._forget_idle()
        for process in self._waiting.copy():
            self._ticks[process.pid] += 1
            if not process.ready and self._ticks[process.pid] > LOAD_TICKS_MAX:
                self._fail(process, "its libraries did not load in time")
        if self._waiting and free_memory_share() < FREE_MEMORY_SHARE / 2:
            self._end(self._waiting[-1])
        self._keep()

    def _forget_idle(self) -> None:
        in_use = set(self._tasks.values())
        for environment in list(self._idle_ticks):
            ticks = 0 if environment in in_use else self._idle_ticks[environment] + 1
            self._idle_ticks[environment] = ticks
            if ticks > IDLE_TICKS:
                del self._idle_ticks[environment]

    def close(self) -> None:
        """End every process and the timer."""
        self._allowed = 0
        self._retry_ticks.clear()
        self.release()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
