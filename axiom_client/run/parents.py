"""The two ways to give a task a process, behind one interface: a zygote's fork, or a cold exec."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from axiom_client.run import exits, zygote
from axiom_client.run.spec import Environment
from axiom_client.run.zygote import Broken, Ended, News, Ready, Started
from axiom_client.sandbox import launch

OnNews = Callable[[News], None]


class Parent(Protocol):
    """Starts the processes of tasks and tells what becomes of them by ``Started`` and ``Ended``."""

    tasks: set[int]

    def start(self, task_id: int, channel: int, output: int) -> None:
        """Give the task a process with these descriptors, which stay the caller's to close."""

    def signal(self, task_id: int, numbers: list[int]) -> None:
        """Send signals, in order. Nothing where the task has ended."""


class Zygote:
    """The agent's end of one zygote. ``on_gone`` is called once when it is dead and reaped."""

    def __init__(
        self, environment: Environment, on_news: OnNews, on_gone: Callable[[Zygote], None]
    ) -> None:
        self.environment = environment
        self.tasks: set[int] = set()
        self.ready = False
        self.broken = ""
        self._on_news = on_news
        self._on_gone = on_gone
        self._outbox: deque[tuple[bytes, list[int]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                launch.command(
                    "axiom_client.run.zygote", environment, os.getpid(), theirs.fileno()
                ),
                env=launch.environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self.pid = self._process.pid
        self._loop.add_reader(self._socket.fileno(), self._hear)
        exits.watch(self.pid, self._reaped)

    def start(self, task_id: int, channel: int, output: int) -> None:
        """See Parent."""
        self.tasks.add(task_id)
        self._send(zygote.Start(task_id), [os.dup(channel), os.dup(output)])

    def signal(self, task_id: int, numbers: list[int]) -> None:
        """See Parent."""
        self._send(zygote.Signal(task_id, numbers), [])

    def close(self) -> None:
        """Let it end: it has no more to do when its socket closes."""
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        for _, descriptors in self._outbox:
            _close_all(descriptors)
        self._outbox.clear()

    def kill(self) -> None:
        """End it, and with it every child of its own."""
        if self._process.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def _send(self, order: zygote.Order, descriptors: list[int]) -> None:
        self._outbox.append((msgspec.json.encode(order), descriptors))
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
                return  # it is dead; _reaped tells
            _close_all(descriptors)
            self._outbox.popleft()
        if self._socket.fileno() >= 0:
            self._loop.remove_writer(self._socket.fileno())

    def _hear(self) -> None:
        try:
            data = self._socket.recv(zygote.MESSAGE_BYTES_MAX)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._loop.remove_reader(self._socket.fileno())
            self.kill()  # a closed socket with a living process is a zygote gone wrong
            return
        news = msgspec.json.decode(data, type=News)
        if isinstance(news, Ready):
            self.ready = True
        elif isinstance(news, Broken):
            self.broken = news.message
        elif isinstance(news, Ended):
            self.tasks.discard(news.task_id)
        self._on_news(news)

    def _reaped(self, status: int, usage: resource.struct_rusage) -> None:
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._drain()
        if self._socket.fileno() >= 0:
            self.close()
        self._on_gone(self)

    def _drain(self) -> None:
        """Hear what it said before it died."""
        while self._socket.fileno() >= 0:
            try:
                data = self._socket.recv(zygote.MESSAGE_BYTES_MAX)
            except (BlockingIOError, ConnectionResetError):
                return
            if not data:
                return
            news = msgspec.json.decode(data, type=News)
            if isinstance(news, Broken):
                self.broken = news.message
            elif isinstance(news, Ended):
                self.tasks.discard(news.task_id)
            self._on_news(news)


class ColdProcess:
    """One exec'd child for one task; ``wrap`` puts a helper such as bubblewrap in front."""

    def __init__(
        self,
        on_news: OnNews,
        gpu_uuid: str = "",
        wrap: Callable[[list[str]], list[str]] | None = None,
    ) -> None:
        self.tasks: set[int] = set()
        self._on_news = on_news
        self._gpu_uuid = gpu_uuid
        self._wrap = wrap
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, task_id: int, channel: int, output: int) -> None:
        """See Parent."""
        self.tasks.add(task_id)
        parent = 0 if self._wrap else os.getpid()
        command = launch.command("axiom_client.run.cold", parent, channel)
        self._process = subprocess.Popen(
            self._wrap(command) if self._wrap else command,
            env=launch.environment(self._gpu_uuid),
            pass_fds=[channel],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        started = Started(task_id, self._process.pid, time.monotonic())
        exits.watch(self._process.pid, lambda *end: self._ended(task_id, *end))
        asyncio.get_running_loop().call_soon(self._on_news, started)

    def signal(self, task_id: int, numbers: list[int]) -> None:
        """See Parent."""
        if self._process is not None and self._process.returncode is None:
            for number in numbers:
                os.kill(self._process.pid, number)

    def _ended(self, task_id: int, status: int, usage: resource.struct_rusage) -> None:
        assert self._process is not None
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.tasks.discard(task_id)
        peak = usage.ru_maxrss * 1024  # Linux gives KiB
        ended = Ended(task_id, status, time.monotonic(), usage.ru_utime, usage.ru_stime, peak)
        self._on_news(ended)


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
