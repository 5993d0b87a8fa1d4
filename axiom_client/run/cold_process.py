"""Starts a task's process as a new interpreter, on Linux and macOS."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

assert sys.platform != "win32"

from axiom_client.run import exits
from axiom_client.run.channel import ChildEnds
from axiom_client.run.launchers import OnMessage
from axiom_client.run.zygote_messages import Ended, Started
from axiom_client.sandbox import launch


class ColdProcess:
    """A new interpreter for one task. ``module`` has its entry point."""

    def __init__(
        self,
        on_message: OnMessage,
        variables: Mapping[str, str],
        module: str = "axiom_client.run.cold",
    ) -> None:
        self._module = module
        self.tasks: set[int] = set()
        self._used = (0.0, 0.0)  # user and system seconds before the task
        self._on_message = on_message
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, task_id: int, ends: ChildEnds) -> None:
        """See Launcher."""
        command = launch.command(self._module, os.getpid(), ends.channel)
        self._exec(task_id, command, ends.channel, ends.output)

    def _exec(self, task_id: int, command: list[str], *passed: int) -> None:
        self.tasks.add(task_id)
        self._process = self._spawn(command, passed[1], passed)
        started = Started(task_id, self._process.pid, time.monotonic())
        exits.watch(self._process.pid, lambda *end: self._ended(task_id, *end))
        asyncio.get_running_loop().call_soon(self._on_message, started)

    def _spawn(
        self, command: list[str], output: int, passed: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            env=launch.environment(self._variables),
            pass_fds=passed,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def pause(self, task_id: int) -> None:
        """See Launcher."""
        self._signal(task_id, [signal.SIGSTOP])

    def resume(self, task_id: int) -> None:
        """See Launcher."""
        self._signal(task_id, [signal.SIGCONT])

    def ask_to_stop(self, task_id: int) -> None:
        """See Launcher."""
        self._signal(task_id, [signal.SIGCONT, signal.SIGTERM])

    def kill(self, task_id: int) -> None:
        """See Launcher."""
        self._signal(task_id, [signal.SIGKILL])

    def _signal(self, task_id: int, numbers: list[int]) -> None:
        if self._process is not None and self._process.returncode is None:
            for number in numbers:
                self._send_signal(number)

    def _send_signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _ended(self, task_id: int, status: int, usage: exits.Usage) -> None:
        assert self._process is not None
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.tasks.discard(task_id)
        ended = Ended(
            task_id, self._status(status), time.monotonic(),
            max(0.0, usage.ru_utime - self._used[0]), max(0.0, usage.ru_stime - self._used[1]),
            exits.peak_bytes(usage),
        )  # fmt: skip
        self._on_message(ended)

    def _status(self, status: int) -> int:
        return status
