"""Waits for the end of a launched agent, or for the end of the time in which it must be healthy."""

from __future__ import annotations

import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from axiom_client.decide.update import Ended
from axiom_client.errors import UpdateTakenUp
from axiom_client.releases.link import HEALTHY
from axiom_client.releases.relay import NotifyRelay

assert sys.platform != "win32"

WATCHDOG_SECONDS = 30.0  # between messages to the service manager while a version is on trial
LINE_BYTES_MAX = 4096


class Watch:
    """One launched agent: its process, its link, and what it tells the service manager.

    woken   readable after a signal
    """

    def __init__(
        self,
        agent: subprocess.Popen[bytes],
        link: socket.socket,
        woken: socket.socket,
        relay: NotifyRelay,
    ) -> None:
        self._agent, self._link, self._woken, self._relay = agent, link, woken, relay
        self._heard = b""
        self._healthy = False
        self._selector = selectors.DefaultSelector()
        for source in (link, woken, *([relay.socket] if relay.socket else [])):
            source.setblocking(False)
            self._selector.register(source, selectors.EVENT_READ)

    def wait(
        self,
        version: str,
        trial_seconds: float | None,
        asked: Callable[[], bool],
        on_healthy: Callable[[str], None],
    ) -> Ended:
        """How it ended. ``trial_seconds``: until it must be healthy; None: it is known to be."""
        deadline = None if trial_seconds is None else time.monotonic() + trial_seconds
        with self._selector:
            while (code := self._agent.poll()) is None:
                left = self._left(deadline)
                if left is not None and left <= 0 and not asked():
                    return Ended(code=None, asked=False, healthy=False)
                timeout = None if left is None else min(max(left, 0.1), WATCHDOG_SECONDS)
                for key, _ in self._selector.select(timeout):
                    self._read(key.fileobj, asked())
                self._learn(version, deadline is not None, on_healthy)
            self._read(self._link, asked())
            self._relay.forward(stopping=asked())  # what it sent last
            self._learn(version, deadline is not None, on_healthy)
        return Ended(
            code=code, asked=asked(), healthy=self._healthy, updates=code == UpdateTakenUp.exit_code
        )

    def _left(self, deadline: float | None) -> float | None:
        """Seconds of the trial that are left; None where there is none, or it is over well."""
        if deadline is None or self._healthy:
            return None
        self._relay.send(b"READY=1", b"WATCHDOG=1")
        return max(0.0, deadline - time.monotonic())

    def _read(self, source: object, asked: bool) -> None:
        if source is self._relay.socket:
            self._relay.forward(stopping=asked)
        elif source is self._woken:
            _drain(self._woken)
        elif not (piece := _drain(self._link)):
            self._forget_link()
        else:
            self._heard = (self._heard + piece)[-LINE_BYTES_MAX:]

    def _forget_link(self) -> None:
        """The agent has closed its end, as it does when it ends."""
        if self._link.fileno() in self._selector.get_map():
            self._selector.unregister(self._link)

    def _learn(self, version: str, trial: bool, on_healthy: Callable[[str], None]) -> None:
        """Note that the version is healthy, if it and no other has said so."""
        if not self._healthy and f"{HEALTHY} {version}\n".encode() in self._heard:
            self._healthy = True
            if trial:
                on_healthy(version)


def _drain(source: socket.socket) -> bytes:
    """What can be read now; empty at the end."""
    try:
        return source.recv(LINE_BYTES_MAX)
    except BlockingIOError:
        return b""
