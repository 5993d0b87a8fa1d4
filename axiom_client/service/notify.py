"""Tells systemd about the state of this process, by the protocol of sd_notify(3).

Each message is one datagram of KEY=VALUE lines to $NOTIFY_SOCKET. Without that variable every call
does nothing, so that the agent need not know whether systemd started it. The variable is removed
from the environment, so that processes which the agent starts cannot send messages in its name.
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
    """Sends messages to the service manager, if there is one."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._address = environment.pop("NOTIFY_SOCKET", "")
        usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        watched = usec.isdigit() and int(usec) > 0 and pid in ("", str(os.getpid()))
        #: How long the watchdog waits for a message; None: it does not watch this process.
        self.watchdog_seconds: float | None = int(usec) / 1e6 if watched else None

    @property
    def watchdog_interval_seconds(self) -> float | None:
        """Half of the watchdog's time, as sd_watchdog_enabled(3) advises."""
        return None if self.watchdog_seconds is None else self.watchdog_seconds / 2

    def ready(self, status: str = "") -> bool:
        """Say that the agent has started, or has finished reloading."""
        return self._send("READY=1", *_status(status))

    def reloading(self) -> bool:
        """Say that the configuration is being read again; ``ready`` must follow."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> bool:
        """Say that the agent is stopping."""
        return self._send("STOPPING=1", *_status(status))

    def alive(self, status: str = "") -> bool:
        """Tell the watchdog that the agent works."""
        return self._send("WATCHDOG=1", *_status(status))

    def status(self, text: str) -> bool:
        """Set the line that ``systemctl status`` shows."""
        return self._send(*_status(text))

    async def keep_alive(self, describe: Callable[[], str]) -> None:
        """Tell the watchdog regularly that the event loop works, until cancelled."""
        while self._address:
            self.alive(describe())
            await asyncio.sleep(self.watchdog_interval_seconds or STATUS_SECONDS)

    def _send(self, *lines: str) -> bool:
        """Send a message; whether it was delivered.

        Never blocks and never raises: the manager's own time-out covers a lost message.
        """
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
    if sys.platform != "win32":  # Windows has neither such sockets nor systemd
        # An abstract socket's name begins with @ in the environment and with NUL in the kernel.
        name = "\0" + address[1:] if address.startswith("@") else address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(message, name)
