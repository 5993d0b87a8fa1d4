"""The way to a running agent on Windows: a named pipe, in the place of a Unix socket.

asyncio's own event loop there serves pipes. Windows gives a new pipe to its creator, to the system
and to administrators; others may open it for reading only, and then hear nothing, for the agent
speaks only when it was asked in writing. The first instance of the name is ours or none: asyncio
asks for FILE_FLAG_FIRST_PIPE_INSTANCE, so that another program cannot wait under it.

Written for Windows and type-checked everywhere; tried there by nobody yet.
"""

from __future__ import annotations

import asyncio
import hashlib
import ntpath
from collections.abc import Awaitable, Callable
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol

from axiom_client.errors import ControlRefused, NotRunning

PREFIX = r"\\.\pipe\axiom-client-"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def pipe_name(path: Path) -> str:
    """The pipe that stands for a socket at ``path``: one for each agent's folder."""
    plain = ntpath.normcase(str(path))  # Windows' paths have neither case nor one separator
    return PREFIX + hashlib.sha256(plain.encode()).hexdigest()[:32]


class ControlListener:
    """Listens at the pipe that stands for ``path``."""

    def __init__(self, path: Path, serve: Serve, line_bytes_max: int) -> None:
        self._name = pipe_name(path)
        self._serve = serve
        self._line_bytes_max = line_bytes_max
        self._servers: list[Any] = []

    async def open(self) -> None:
        """Listen. Raises ControlRefused where the pipe cannot be made."""
        loop: Any = asyncio.get_running_loop()  # a ProactorEventLoop, Windows' default
        try:
            self._servers = await loop.start_serving_pipe(self._protocol, self._name)
        except OSError as error:
            raise ControlRefused(
                f"cannot listen at {self._name}: {error.strerror}; does another agent run there?"
            ) from None

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=self._line_bytes_max)
        return asyncio.StreamReaderProtocol(reader, self._serve)

    def close(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.close()


class Wire(Protocol):
    """What is needed of multiprocessing's connections: messages, and a wait that ends."""

    def send_bytes(self, buf: bytes, /) -> None:
        """Send one message."""

    def poll(self, timeout: float, /) -> bool:
        """Whether something can be received within so many seconds."""

    def recv_bytes(self) -> bytes:
        """Receive one message. Raises EOFError."""


def send_request(path: Path, line: bytes, seconds: float) -> bytes:
    """One line there and one back. Raises NotRunning, ControlRefused."""
    name = pipe_name(path)
    try:
        with connection.Client(name, family="AF_PIPE") as wire:  # waits while the pipe is busy
            return speak(wire, line, seconds)
    except FileNotFoundError:
        raise NotRunning from None
    except OSError as error:
        raise ControlRefused.unreachable(path, error) from None


def speak(wire: Wire, line: bytes, seconds: float) -> bytes:
    """Send a line and put the answer together from its pieces. Raises ControlRefused."""
    wire.send_bytes(line)
    answer = b""
    while not answer.endswith(b"\n"):
        if not wire.poll(seconds):
            raise ControlRefused.silent()
        try:
            answer += wire.recv_bytes()
        except EOFError:
            break
    return answer
