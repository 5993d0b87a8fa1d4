"""The ways to start a task's process, behind one interface: fork from a zygote, or a cold exec."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from axiom_client.decide.task_run import Environment
from axiom_client.run import exits
from axiom_client.run.zygote_messages import (
    MESSAGE_BYTES_MAX,
    Broken,
    Ended,
    Ready,
    Signal,
    Start,
    Started,
    ZygoteCommand,
    ZygoteMessage,
)
from axiom_client.sandbox import bubblewrap, launch
from axiom_client.sandbox.policy import Policy

OnMessage = Callable[[ZygoteMessage], None]


class Launcher(Protocol):
    """Starts processes of tasks and reports ``Started`` and ``Ended`` for each."""

    tasks: set[int]

    def start(self, task_id: int, channel: int, output: int) -> None:
        """Start the task's process with these descriptors; the caller closes its own copies."""

    def signal(self, task_id: int, numbers: list[int]) -> None:
        """Send signals in order; does nothing if the task has ended."""


class Zygote:
    """The agent's side of one zygote. ``on_gone`` is called once, when it has ended."""

    def __init__(
        self,
        environment: Environment,
        on_message: OnMessage,
        on_gone: Callable[[Zygote], None],
        *,
        gpu: bool,
        variables: Mapping[str, str],
        background: bool,
    ) -> None:
        self.environment, self.gpu = environment, gpu
        self.tasks: set[int] = set()
        self.ready = False
        self.broken = ""
        self._on_message = on_message
        self._on_gone = on_gone
        self._outbox: deque[tuple[bytes, list[int]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                launch.command(
                    "axiom_client.run.zygote",
                    environment,
                    gpu,
                    os.getpid(),
                    theirs.fileno(),
                    background,
                ),
                env=launch.environment(variables),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self.pid = self._process.pid
        self._loop.add_reader(self._socket.fileno(), self._receive_message)
        exits.watch(self.pid, self._reaped)

    def start(self, task_id: int, channel: int, output: int) -> None:
        """See Launcher."""
        descriptors = [os.dup(channel), os.dup(output)]
        self.tasks.add(task_id)
        self._send(Start(task_id), descriptors)

    def signal(self, task_id: int, numbers: list[int]) -> None:
        """See Launcher."""
        self._send(Signal(task_id, numbers), [])

    def close(self) -> None:
        """Close its socket, upon which it ends."""
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        for _, descriptors in self._outbox:
            _close_all(descriptors)
        self._outbox.clear()

    def kill(self) -> None:
        """Kill it; its children are killed with it."""
        if self._process.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def _send(self, command: ZygoteCommand, descriptors: list[int]) -> None:
        self._outbox.append((msgspec.json.encode(command), descriptors))
        self._flush()

    def _flush(self) -> None:
        while self._outbox and self._socket.fileno() >= 0:
            data, descriptors = self._outbox[0]
            try:
                socket.send_fds(self._socket, [data], descriptors)
            except BlockingIOError:
                self._loop.add_writer(self._socket.fileno(), self._flush)
                return
            except (BrokenPipeError, ConnectionResetError):
                return  # it has ended; _reaped reports that
            _close_all(descriptors)
            self._outbox.popleft()
        if self._socket.fileno() >= 0:
            self._loop.remove_writer(self._socket.fileno())

    def _receive_message(self) -> None:
        try:
            data = self._socket.recv(MESSAGE_BYTES_MAX)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._loop.remove_reader(self._socket.fileno())
            self.kill()  # a zygote that runs on without its socket has failed
            return
        message = msgspec.json.decode(data, type=ZygoteMessage)
        if isinstance(message, Ready):
            self.ready = True
        elif isinstance(message, Broken):
            self.broken = message.message
        elif isinstance(message, Ended):
            self.tasks.discard(message.task_id)
        self._on_message(message)

    def _reaped(self, status: int, usage: resource.struct_rusage) -> None:
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._drain()
        if self._socket.fileno() >= 0:
            self.close()
        self._on_gone(self)

    def _drain(self) -> None:
        """Process the messages that it sent before it ended."""
        while self._socket.fileno() >= 0:
            try:
                data = self._socket.recv(MESSAGE_BYTES_MAX)
            except (BlockingIOError, ConnectionResetError):
                return
            if not data:
                return
            message = msgspec.json.decode(data, type=ZygoteMessage)
            if isinstance(message, Broken):
                self.broken = message.message
            elif isinstance(message, Ended):
                self.tasks.discard(message.task_id)
            self._on_message(message)


class ColdProcess:
    """A new interpreter for one task."""

    def __init__(self, on_message: OnMessage, variables: Mapping[str, str]) -> None:
        self.tasks: set[int] = set()
        self._on_message = on_message
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, task_id: int, channel: int, output: int) -> None:
        """See Launcher."""
        self._exec(task_id, self._command(channel), channel, output)

    def _command(self, channel: int) -> list[str]:
        return launch.command("axiom_client.run.cold", os.getpid(), channel)

    def _exec(self, task_id: int, command: list[str], *passed: int) -> None:
        self.tasks.add(task_id)
        self._process = subprocess.Popen(
            command,
            env=launch.environment(self._variables),
            pass_fds=passed,
            stdin=subprocess.DEVNULL,
            stdout=passed[1],
            stderr=passed[1],
        )
        started = Started(task_id, self._process.pid, time.monotonic())
        exits.watch(self._process.pid, lambda *end: self._ended(task_id, *end))
        asyncio.get_running_loop().call_soon(self._on_message, started)

    def signal(self, task_id: int, numbers: list[int]) -> None:
        """See Launcher."""
        if self._process is not None and self._process.returncode is None:
            for number in numbers:
                self._send_signal(number)

    def _send_signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _ended(self, task_id: int, status: int, usage: resource.struct_rusage) -> None:
        assert self._process is not None
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.tasks.discard(task_id)
        peak = usage.ru_maxrss * 1024  # Linux gives KiB
        ended = Ended(
            task_id, self._status(status), time.monotonic(), usage.ru_utime, usage.ru_stime, peak
        )
        self._on_message(ended)

    def _status(self, status: int) -> int:
        return status


class BubblewrappedProcess(ColdProcess):
    """A cold child inside bubblewrap, which is its parent process."""

    def __init__(
        self, on_message: OnMessage, variables: Mapping[str, str], helper: str, policy: Policy
    ) -> None:
        super().__init__(on_message, variables)
        self._helper, self._policy = helper, policy
        self._info, self._info_inner = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._info_text = b""

    def start(self, task_id: int, channel: int, output: int) -> None:
        """See Launcher."""
        inner = launch.command(
            "axiom_client.run.cold", 0, channel
        )  # no parent inside the namespace
        command = bubblewrap.wrap(self._helper, self._policy, inner, self._info_inner)
        try:
            self._exec(task_id, command, channel, output, self._info_inner)
        finally:
            os.close(self._info_inner)

    def _send_signal(self, number: int) -> None:
        """Signal the task itself, or bubblewrap while it has not started the task yet."""
        assert self._process is not None
        with contextlib.suppress(BlockingIOError):
            self._info_text += os.read(self._info, 4096)
        try:
            os.kill(bubblewrap.inner_pid(self._info_text) or self._process.pid, number)
        except ProcessLookupError:
            return  # the task has ended, and bubblewrap will end next

    def _ended(self, task_id: int, status: int, usage: resource.struct_rusage) -> None:
        os.close(self._info)
        super()._ended(task_id, status, usage)

    def _status(self, status: int) -> int:
        """Bubblewrap exits with 128 + the signal that ended the task, as shells do."""
        code = status >> 8
        return code - 128 if status & 0x7F == 0 and code > 128 else status


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
