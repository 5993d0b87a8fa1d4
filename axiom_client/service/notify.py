"""sd_notify(3): tell systemd how this process fares, over the socket it named.

One datagram of KEY=VALUE lines to $NOTIFY_SOCKET. Without that variable every call does nothing, so
that the agent need not know whether systemd started it. The socket's name is taken out of the
environment: what the agent starts must not speak in its name.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, MutableMapping

STATUS_SECONDS = 60.0  # between two status lines where no watchdog sets the pace


class Notifier:
    """The way to the service manager, if there is one."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._address = environment.pop("NOTIFY_SOCKET", "")
        usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        watched = usec.isdigit() and int(usec) > 0 and pid in ("", str(os.getpid()))
        #: How long the manager waits for a sign of life; None: it does not watch this process.
        self.watchdog_seconds: float | None = int(usec) / 1e6 if watched else None

    @property
    def watchdog_interval_seconds(self) -> float | None:
        """Half of what the manager waits, as sd_watchdog_enabled(3) advises."""
        return None if self.watchdog_seconds is None else self.watchdog_seconds / 2

    def ready(self, status: str = "") -> bool:
        """Started, or done with reloading."""
        return self._send("READY=1", *_status(status))

    def reloading(self) -> bool:
        """The configuration is being read again; ``ready`` must follow."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> bool:
        """On the way out."""
        return self._send("STOPPING=1", *_status(status))

    def alive(self, status: str = "") -> bool:
        """A sign of life for the watchdog."""
        return self._send("WATCHDOG=1", *_status(status))

    def status(self, text: str) -> bool:
        """One line for ``systemctl status``."""
        return self._send(*_status(text))

    async def keep_alive(self, describe: Callable[[], str]) -> None:
        """Say that the event loop turns, and what it does, until cancelled."""
        while self._address:
            self.alive(describe())
            await asyncio.sleep(self.watchdog_interval_seconds or STATUS_SECONDS)

    def _send(self, *lines: str) -> bool:
        """Whether it was delivered. Never blocks and never ends the agent: the manager's own
        timeout deals with a message that it did not get."""
        if not self._address:
            return False
        try:
            _send_datagram("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True


def _status(text: str) -> list[str]:
    return [f"STATUS={text}".replace("\n", " ")] if text else []


def _send_datagram(message: bytes, address: str) -> None:
    if sys.platform != "win32":  # which has no such sockets, and no manager of this kind
        # An abstract socket's name begins with @ in the environment and with NUL in the kernel.
        name = "\0" + address[1:] if address.startswith("@") else address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as way:
            way.setblocking(False)
            way.sendto(message, name)
