"""The agent's ends of a task's channel and output on Linux and macOS: a socket and a pipe."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

assert sys.platform != "win32"

from axiom_client.run.channel import READ_BYTES, READS_PER_SECOND, ChildEnds


class _Reader:
    """Calls ``receive`` with what arrives at a descriptor, and with b"" at its end."""

    def __init__(
        self, descriptor: int, read: Callable[[], bytes], receive: Callable[[bytes], None]
    ) -> None:
        self._descriptor, self._read, self._receive = descriptor, read, receive
        self._loop = asyncio.get_running_loop()
        self.open = True
        self._loop.add_reader(descriptor, self._ready)

    def pause(self) -> None:
        """Stop reading for a moment: it was ready too often."""
        if self.open:
            self._loop.remove_reader(self._descriptor)
            self._loop.call_later(1 / READS_PER_SECOND, self._again)

    def _again(self) -> None:
        if self.open:
            self._loop.add_reader(self._descriptor, self._ready)

    def _ready(self) -> None:
        try:
            data = self._read()
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        self._receive(data)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        self.open = False


class Streams:
    """Sends a task's assignment; calls ``on_channel`` and ``on_output`` with what arrives."""

    def __init__(
        self,
        assignment: bytes,
        on_channel: Callable[[bytes], None],
        on_output: Callable[[bytes], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._unsent = memoryview(assignment)
        self._socket, self._inner_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._output, self._inner_output = os.pipe()
        self._socket.setblocking(False)
        os.set_blocking(self._output, False)
        self.channel = _Reader(
            self._socket.fileno(), lambda: self._socket.recv(READ_BYTES), on_channel
        )
        self.output = _Reader(self._output, lambda: os.read(self._output, READ_BYTES), on_output)

    @contextmanager
    def child_ends(self) -> Iterator[ChildEnds]:
        """The child's ends, for its launcher; closed here afterwards."""
        with self._inner_socket:
            inner = self._inner_socket.fileno()
            try:
                yield ChildEnds(inner, inner, self._inner_output)
            finally:
                os.close(self._inner_output)

    def send(self) -> None:
        """Send the assignment, as much at a time as the socket takes."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            self._loop.add_writer(self._socket.fileno(), self.send)
            return
        except (BrokenPipeError, ConnectionResetError):
            # It ended before reading everything; the reader notices that.
            self._unsent = memoryview(b"")
        self._loop.remove_writer(self._socket.fileno())

    def ask_to_stop(self) -> None:
        """The launcher sends a signal; nothing is sent here."""

    def close_channel(self) -> None:
        """Close the channel, if it is still open."""
        if self.channel.open:
            self.channel.close()
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()

    def close_output(self) -> None:
        """Close the output, if it is still open."""
        if self.output.open:
            self.output.close()
            os.close(self._output)
