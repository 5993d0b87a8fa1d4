"""The connection of a launched agent with its launcher.

The agent reports that it is healthy, with its version, so that the launcher cannot take another
version's health for it. Its end of the connection is closed when the launcher ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, MutableMapping

VARIABLE = "AXIOM_LAUNCHER"  # the number of the agent's descriptor
HEALTHY = "healthy"


class LauncherLink:
    """The agent's side; without a launcher, ``launched`` is false and reports go nowhere."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        number = environment.pop(VARIABLE, "")
        self._socket: socket.socket | None = None
        if number.isdigit():
            os.set_inheritable(int(number), False)  # processes of the agent do not get it
            self._socket = socket.socket(fileno=int(number))

    @property
    def launched(self) -> bool:
        """Whether a launcher started this agent, which starts the next version when it ends."""
        return self._socket is not None

    def watch(self, on_end: Callable[[], None]) -> None:
        """Call ``on_end`` in the running loop when the launcher has ended."""
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._ended, on_end)

    def unwatch(self) -> None:
        """Wait for the launcher's end no more."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)

    def _ended(self, on_end: Callable[[], None]) -> None:
        self.unwatch()
        on_end()

    def report_healthy(self, version: str) -> None:
        """Tell the launcher that this version works."""
        if self._socket is not None:
            try:
                self._socket.sendall(f"{HEALTHY} {version}\n".encode())
            except OSError:  # the launcher has ended, and this process will too
                return
