"""The running agent's control connection on Windows: a named pipe in place of a Unix socket.

asyncio's event loop on Windows can serve pipes. Windows gives full access to a new pipe to its
creator, the system and administrators. Others may only read, and then receive nothing, since the
agent only answers requests. asyncio passes FILE_FLAG_FIRST_PIPE_INSTANCE, so that another program
cannot take the name first.

Tested under Windows' CPython in wine, not yet on a real Windows.
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
    """The name of the pipe for an agent whose socket would be at ``path``."""
    normal = ntpath.normcase(str(path))  # case and kind of slash mean nothing in Windows' paths
    return PREFIX + hashlib.sha256(normal.encode()).hexdigest()[:32]


class ControlListener:
    """Listens at the pipe for ``path``."""

    def __init__(self, path: Path, serve: Serve, line_bytes_max: int) -> None:
        self._name = pipe_name(path)
        self._serve = serve
        self._line_bytes_max = line_bytes_max
        self._servers: list[Any] = []

    async def open(self) -> None:
        """Start to listen. Raises ControlRefused where the pipe cannot be made."""
        loop: Any = asyncio.get_running_loop()  # a ProactorEventLoop, Windows' default
        try:
            self._servers = await loop.start_serving_pipe(self._protocol, self._name)
        except OSError as error:
            raise ControlRefused(
                f"cannot listen at {self._name}: {error.strerror}; is another agent running?"
            ) from None

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=self._line_bytes_max)
        return asyncio.StreamReaderProtocol(reader, self._serve)

    def close(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.close()


class Connection(Protocol):
    """The part of multiprocessing's connections that is used here."""

    def send_bytes(self, buf: bytes, /) -> None:
        """Send one message."""

    def poll(self, timeout: float, /) -> bool:
        """Wait up to ``timeout`` seconds; whether something can be received."""

    def recv_bytes(self) -> bytes:
        """Receive one message. Raises EOFError when the other side has closed."""


def send_request(path: Path, line: bytes, seconds: float) -> bytes:
    """Send one line and return the line that answers it. Raises NotRunning, ControlRefused."""
    name = pipe_name(path)
    try:
        with connection.Client(name, family="AF_PIPE") as pipe:  # waits while the pipe is busy
            return exchange(pipe, line, seconds)
    except FileNotFoundError:
        raise NotRunning from None
    except OSError as error:
        raise ControlRefused.unreachable(path, error) from None


def exchange(pipe: Connection, line: bytes, seconds: float) -> bytes:
    """Send a line and join the pieces of the answer. Raises ControlRefused."""
    pipe.send_bytes(line)
    answer = b""
    while not answer.endswith(b"\n"):
        try:
            if not pipe.poll(seconds):
                raise ControlRefused.silent()
            answer += pipe.recv_bytes()
        except (EOFError, BrokenPipeError):  # the latter from ``poll``, on Windows
            break
    return answer
