"""The running agent's control connection on Unix-like systems: a socket in its private folder."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

assert sys.platform != "win32"

from axiom_client.errors import ControlRefused, NotRunning

PATH_BYTES_MAX = 100  # kernels allow 104 to 108 bytes for a socket's path

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ControlListener:
    """Listens at ``path``. A socket found there is replaced: by the lock, its agent has ended."""

    def __init__(self, path: Path, serve: Serve, line_bytes_max: int) -> None:
        self._path = path
        self._serve = serve
        self._line_bytes_max = line_bytes_max
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Start to listen. Raises ControlRefused where the socket cannot be made."""
        if len(str(self._path).encode()) > PATH_BYTES_MAX:
            raise ControlRefused(
                f"the path {self._path} is too long for a socket; "
                "set AXIOM_CLIENT_DIR to a shorter one"
            )
        self._path.unlink(missing_ok=True)
        try:
            self._server = await asyncio.start_unix_server(
                self._serve, str(self._path), limit=self._line_bytes_max
            )
            self._path.chmod(0o600)
        except OSError as error:
            raise ControlRefused(
                f"cannot listen at {self._path}: {error.strerror}; check the folder's permissions"
            ) from None

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)


def send_request(path: Path, line: bytes, seconds: float) -> bytes:
    """Send one line and return the line that answers it. Raises NotRunning, ControlRefused."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(str(path))
            connection.sendall(line)
            with connection.makefile("rb") as file:
                return file.readline()
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotRunning from None
    except TimeoutError:
        raise ControlRefused.silent() from None
    except OSError as error:
        raise ControlRefused.unreachable(path, error) from None
