"""The agent's side of a standby process on Linux and macOS. See ``standby``."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import msgspec
import psutil

assert sys.platform != "win32"

from axiom_client.decide.task_run import Environment
from axiom_client.run import exits
from axiom_client.run.channel import ChildEnds
from axiom_client.run.cold_process import ColdProcess
from axiom_client.run.launchers import OnMessage
from axiom_client.run.posix_child import send_ends
from axiom_client.run.zygote_messages import (
    MESSAGE_BYTES_MAX,
    Broken,
    Ready,
    Received,
    StandbyMessage,
    Started,
)
from axiom_client.sandbox import launch

_MESSAGES: msgspec.json.Decoder[StandbyMessage] = msgspec.json.Decoder(StandbyMessage)


class StandbyProcess(ColdProcess):
    """An interpreter with an environment's libraries, for one task that is not known yet.

    on_change   called when it is ready, and when it has ended without a task
    """

    def __init__(
        self,
        environment: Environment,
        on_message: OnMessage,
        on_change: Callable[[StandbyProcess], None],
        variables: Mapping[str, str],
        module: str,
        *,
        background: bool,
    ) -> None:
        super().__init__(on_message, variables, module)
        self.environment = environment
        self.ready = self.gone = False
        self.problem = ""
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._task: int | None = None
        self._held: list[int] = []  # the task's ends, until the process has them
        self._line = b""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            passed = theirs.fileno()
            command = launch.command(module, os.getpid(), passed, environment, background)
            waiting = self._spawn(command, subprocess.DEVNULL, (passed,))
        self._process, self.pid = waiting, waiting.pid
        self._control.setblocking(False)
        self._loop.add_reader(self._control.fileno(), self._receive)
        exits.watch(self.pid, lambda *end: self._waiting_ended(waiting, *end))

    def start(self, task_id: int, ends: ChildEnds) -> None:
        """See Launcher. If the process has just died, the task gets a new interpreter."""
        # macOS loses descriptors that the sender closes before they are received (bpo-14669).
        self._held = [os.dup(ends.channel), os.dup(ends.output)]
        try:
            self._used = _cpu_seconds(self.pid)
            send_ends(self._control, self._held)
        except (OSError, psutil.Error):
            self._close()
            self._used = (0.0, 0.0)
            super().start(task_id, ends)
            return
        self.tasks.add(task_id)
        self._task = task_id
        started = Started(task_id, self.pid, time.monotonic(), sum(self._used))
        self._loop.call_soon(self._on_message, started)

    def end(self) -> None:
        """End it; it has no task."""
        if self._process is not None and self._process.pid == self.pid:
            self._signal(0, [signal.SIGKILL])

    def _receive(self) -> None:
        try:
            data = self._control.recv(MESSAGE_BYTES_MAX)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._loop.remove_reader(self._control.fileno())
            return
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._handle(_MESSAGES.decode(line))

    def _handle(self, message: StandbyMessage) -> None:
        if isinstance(message, Received):
            self._close()
        elif isinstance(message, Broken):
            self.problem = message.message
        elif isinstance(message, Ready):
            self.ready = True
            self._on_change(self)

    def _close(self) -> None:
        """Close the socket and what was held for the process."""
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
        for descriptor in self._held:
            os.close(descriptor)
        self._held = []

    def _waiting_ended(
        self, waiting: subprocess.Popen[bytes], status: int, usage: exits.Usage
    ) -> None:
        """The process that was started ahead has ended: with its task, or without one."""
        if self._control.fileno() >= 0:
            self._receive()  # it may have said why
        self._close()
        if self._task is not None:
            self._ended(self._task, status, usage)
            return
        waiting.returncode = os.waitstatus_to_exitcode(status)
        self.gone, self.ready = True, False
        self._on_change(self)


def _cpu_seconds(pid: int) -> tuple[float, float]:
    times = psutil.Process(pid).cpu_times()
    return times.user, times.system
