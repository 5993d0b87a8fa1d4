"""The agent's ends of a task's channel and output on Windows: three pipes.

The task reads its assignment from one pipe, and writes its messages and its output to two others.
A further byte on the first pipe asks it to stop. Each pipe is a named one of its own, as asyncio
makes them for subprocesses: anonymous ones cannot be waited for.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

assert sys.platform == "win32"

from asyncio import windows_utils

from axiom_client.run.channel import READS_PER_SECOND, ChildEnds
from axiom_client.sandbox.windows_calls import close_handle

STOP = b"s"

log = logging.getLogger("axiom_client")


class _Reader(asyncio.Protocol):
    """Calls ``receive`` with what arrives, and with b"" at the end."""

    def __init__(self, receive: Callable[[bytes], None]) -> None:
        self._receive = receive
        self._transport: asyncio.ReadTransport | None = None
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.ReadTransport)
        self._transport = transport
        if not self.open:
            transport.close()

    def data_received(self, data: bytes) -> None:
        if self.open:
            self._receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.open:
            self._receive(b"")

    def pause(self) -> None:
        """Stop reading for a moment: it was ready too often."""
        if self.open and self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(1 / READS_PER_SECOND, self._again)

    def _again(self) -> None:
        if self.open and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.close()


class Streams:
    """Sends a task's assignment; calls ``on_channel`` and ``on_output`` with what arrives."""

    def __init__(
        self,
        assignment: bytes,
        on_channel: Callable[[bytes], None],
        on_output: Callable[[bytes], None],
    ) -> None:
        self._assignment = assignment
        self.channel, self.output = _Reader(on_channel), _Reader(on_output)
        self._writer: asyncio.WriteTransport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._stop_asked = False
        # Duplex, because asyncio reads from it to notice that the task has closed it.
        inner_assignment, self._to_task = windows_utils.pipe(duplex=True, overlapped=(False, True))
        self._from_channel, inner_channel = windows_utils.pipe(overlapped=(True, False))
        self._from_output, inner_output = windows_utils.pipe(overlapped=(True, False))
        self._inner = (inner_assignment, inner_channel, inner_output)

    @contextmanager
    def child_ends(self) -> Iterator[ChildEnds]:
        """The child's ends, for its launcher; closed here afterwards."""
        try:
            yield ChildEnds(*self._inner)
        finally:
            for handle in self._inner:
                close_handle(handle)

    def send(self) -> None:
        """Connect the pipes and send the assignment."""
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await self._open_pipes()
        except OSError as error:
            log.error("a task's pipes cannot be opened: %s", error)
            for reader in (self.channel, self.output):
                reader.connection_lost(error)

    async def _open_pipes(self) -> None:
        loop, handle = asyncio.get_running_loop(), windows_utils.PipeHandle
        await loop.connect_read_pipe(lambda: self.channel, handle(self._from_channel))
        await loop.connect_read_pipe(lambda: self.output, handle(self._from_output))
        self._writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, handle(self._to_task))
        self._writer.write(self._assignment + (STOP if self._stop_asked else b""))
        if not self.channel.open:
            self._writer.close()

    def ask_to_stop(self) -> None:
        """Let the task find something to read after its assignment."""
        if self._writer is not None and not self._writer.is_closing() and not self._stop_asked:
            self._writer.write(STOP)
        self._stop_asked = True

    def close_channel(self) -> None:
        """Close the channel in both directions, if it is still open."""
        if self.channel.open:
            self.channel.close()
            if self._writer is not None:
                self._writer.close()

    def close_output(self) -> None:
        """Close the output, if it is still open."""
        if self.output.open:
            self.output.close()
