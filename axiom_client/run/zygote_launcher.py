"""The agent's side of a zygote: passes on descriptors and signals, learns how tasks ended."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

assert sys.platform == "linux"

from axiom_client.decide.task_run import Environment
from axiom_client.run import exits
from axiom_client.run.channel import ChildEnds
from axiom_client.run.launchers import OnMessage
from axiom_client.run.zygote_messages import (
    MESSAGE_BYTES_MAX,
    Broken,
    Ended,
    Ready,
    Signal,
    Start,
    ZygoteCommand,
    ZygoteMessage,
)
from axiom_client.sandbox import launch


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

    def start(self, task_id: int, ends: ChildEnds) -> None:
        """See Launcher."""
        descriptors = [os.dup(ends.channel), os.dup(ends.output)]
        self.tasks.add(task_id)
        self._send(Start(task_id), descriptors)

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
        self._send(Signal(task_id, numbers), [])

    def close(self) -> None:
        """Close its socket, upon which it ends."""
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        for _, descriptors in self._outbox:
            _close_all(descriptors)
        self._outbox.clear()

    def end(self) -> None:
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
            self.end()  # a zygote that runs on without its socket has failed
            return
        message = msgspec.json.decode(data, type=ZygoteMessage)
        if isinstance(message, Ready):
            self.ready = True
        elif isinstance(message, Broken):
            self.broken = message.message
        elif isinstance(message, Ended):
            self.tasks.discard(message.task_id)
        self._on_message(message)

    def _reaped(self, status: int, usage: exits.Usage) -> None:
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


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
