"""A task's process on Windows: an interpreter inside a job object and an AppContainer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Mapping

import psutil

from axiom_client.run.channel import ChildEnds
from axiom_client.run.launchers import OnMessage
from axiom_client.run.windows_ends import wait_status
from axiom_client.run.zygote_messages import Ended, Started
from axiom_client.sandbox import launch, windows_calls, windows_container
from axiom_client.sandbox.errors import SandboxError
from axiom_client.sandbox.policy import Policy
from axiom_client.sandbox.windows import (
    ContainerAttributes,
    JobAttributes,
    container_attributes,
    group_of,
    job_attributes,
)
from axiom_client.sandbox.windows_calls import JobUsage
from axiom_client.sandbox.windows_process import ConfinedProcess

#: Between two looks at whether a task's process has ended. asyncio offers no public way to wait for
#: a handle of Windows, and a thread for each of 192 tasks would cost more.
EXIT_CHECK_SECONDS = 0.1

log = logging.getLogger("axiom_client")
_turns = itertools.count()  # of tasks, over the groups of processors


class WindowsProcess:
    """A new interpreter for one task, confined from outside before its first instruction."""

    module = "axiom_client.run.windows_child"

    def __init__(self, on_message: OnMessage, variables: Mapping[str, str], policy: Policy) -> None:
        self.tasks: set[int] = set()
        self._on_message, self._variables, self._policy = on_message, variables, policy
        self._process: ConfinedProcess | None = None
        self._used = JobUsage()  # before the task
        self._loop = asyncio.get_running_loop()

    def start(self, task_id: int, ends: ChildEnds) -> None:
        """See Launcher. Raises OSError."""
        try:
            self._process = ConfinedProcess(
                launch.command(self.module),
                launch.environment(self._variables),
                self._policy.folder,
                (ends.assignment, ends.channel, ends.output),
                self._job(),
                self._container(container_attributes(self._policy, _container_name(task_id))),
            )
        except SandboxError as error:
            raise OSError(str(error)) from None
        self._begin(task_id, self._process)
        self._loop.call_later(EXIT_CHECK_SECONDS, self._check, task_id)

    def _begin(self, task_id: int, process: ConfinedProcess) -> None:
        self.tasks.add(task_id)
        used_seconds = self._used.user_seconds + self._used.system_seconds
        started = Started(task_id, process.pid, time.monotonic(), used_seconds)
        self._loop.call_soon(self._on_message, started)

    def _job(self) -> JobAttributes:
        groups = windows_calls.processor_groups()
        group, nested = group_of(next(_turns), groups), windows_calls.in_job()
        return job_attributes(self._policy, sum(groups), group, nested=nested)

    def _job_limits(self, policy: Policy) -> JobAttributes:
        """The limits of use alone, which can change while the process runs."""
        return job_attributes(policy)

    def _container(self, attributes: ContainerAttributes) -> windows_container.Container | None:
        """A container of one task alone: another one cannot open its folder."""
        return windows_container.prepare(attributes)

    def pause(self, task_id: int) -> None:
        """See Launcher."""
        with contextlib.suppress(psutil.Error):
            self._running().suspend()

    def resume(self, task_id: int) -> None:
        """See Launcher."""
        with contextlib.suppress(psutil.Error):
            self._running().resume()

    def ask_to_stop(self, task_id: int) -> None:
        """See Launcher. What is to be read on its input asks it to stop."""
        self.resume(task_id)

    def kill(self, task_id: int) -> None:
        """See Launcher."""
        if self._process is not None and self._process.exit_code() is None:
            self._process.kill()

    def _running(self) -> psutil.Process:
        if self._process is None:
            raise psutil.NoSuchProcess(0)
        return psutil.Process(self._process.pid)

    def _check(self, task_id: int) -> None:
        process = self._process
        assert process is not None
        code = process.exit_code()
        if code is None:
            self._loop.call_later(EXIT_CHECK_SECONDS, self._check, task_id)
            return
        usage = usage_of(process)
        process.close()
        self._process = None
        self.tasks.discard(task_id)
        ended = Ended(
            task_id, wait_status(code), time.monotonic(),
            max(0.0, usage.user_seconds - self._used.user_seconds),
            max(0.0, usage.system_seconds - self._used.system_seconds),
            usage.peak_memory_bytes,
        )  # fmt: skip
        self._on_message(ended)


def _container_name(task_id: int) -> str:
    return f"axiom-client-task-{task_id}"


def usage_of(process: ConfinedProcess) -> JobUsage:
    """What the task has used; nothing where Windows does not say it: its result still counts."""
    try:
        return process.usage()
    except OSError as error:
        log.warning("a task's use is not known: %s", error)
        return JobUsage()
