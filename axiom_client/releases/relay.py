"""Passes the launched agent's messages on to the service manager, which hears only the launcher.

See sd_notify(3). An agent that ends for another version says that it stops; systemd must not hear
that, or it would wait for the end of the launcher. While a version is on trial the launcher itself
answers the watchdog: it ends a version that hangs, and undoes it.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import MutableMapping
from pathlib import Path

MESSAGE_BYTES_MAX = 64 * 1024
STOPPING = b"STOPPING=1"


class NotifyRelay:
    """A socket for the agent at ``path``, if a service manager listens for the launcher."""

    def __init__(self, path: Path, environment: MutableMapping[str, str]) -> None:
        self._manager = environment.pop("NOTIFY_SOCKET", "")
        environment.pop("WATCHDOG_PID", None)  # that of the launcher
        self.socket: socket.socket | None = None
        self._path = path
        if self._manager and sys.platform != "win32":
            path.unlink(missing_ok=True)
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.socket.setblocking(False)
            self.socket.bind(str(path))
            path.chmod(0o600)
            environment["NOTIFY_SOCKET"] = str(path)

    def forward(self, *, stopping: bool) -> None:
        """Pass on what has arrived; that the agent stops only if the launcher stops as well."""
        while self.socket is not None:
            try:
                message = self.socket.recv(MESSAGE_BYTES_MAX)
            except OSError:
                return
            lines = [line for line in message.split(b"\n") if stopping or line != STOPPING]
            self.send(*lines)

    def send(self, *lines: bytes) -> None:
        """Send lines to the service manager, if there is one."""
        if self.socket is None or not lines:
            return
        name = "\0" + self._manager[1:] if self._manager.startswith("@") else self._manager
        try:
            self.socket.sendto(b"\n".join(lines), name)
        except OSError:
            return  # the manager's own time-out covers a lost message

    def close(self) -> None:
        """Remove the socket."""
        if self.socket is not None:
            self.socket.close()
            self._path.unlink(missing_ok=True)
