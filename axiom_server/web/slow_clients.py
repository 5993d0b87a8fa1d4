"""Clients that are slow on purpose: how long a connection may keep the server waiting.

uvicorn hangs up on an idle connection and bounds what it buffers of a body, but it waits for ever
for a head or a body that comes byte by byte, takes a head of any length, and keeps an answer that
nobody reads. One timer a connection, set only while something is missing: a request that comes in
one piece costs no timer at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import sys
from collections import Counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from axiom_server.decide.rates import Limits

HEAD_BYTES_MAX = 32 * 1024  # an agent's is 300 bytes
FILES_KEPT = 100  # open files for the database, bundles and logs


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """What uvicorn makes of each connection, by these limits."""
    most = min(limits.connections, _raise_open_files(limits.connections + FILES_KEPT) - FILES_KEPT)
    proxies = [ipaddress.ip_network(proxy) for proxy in limits.proxies]
    open_by_address: Counter[str] = Counter()

    class Guarded(_Guarded):
        """These limits, shared by every connection of the process."""

        rules = limits
        connections_max = most
        addresses = open_by_address

        def may_have_many(self, address: str) -> bool:
            try:
                found = ipaddress.ip_address(address)
            except ValueError:  # a socket in a folder: a proxy on this machine
                return True
            return any(found in proxy for proxy in proxies)

    return Guarded


class _Guarded(HttpToolsProtocol):
    """uvicorn's protocol, with an end to waiting."""

    rules: Limits
    connections_max: int
    addresses: Counter[str]
    _waiting: asyncio.TimerHandle | None = None  # for the rest of a request
    _unread: asyncio.TimerHandle | None = None  # for the client to take its answer
    _answering: RequestResponseCycle | None = None  # uvicorn's ``cycle`` is the newest asked
    _awaits = "head"  # "", "head" or "body"
    _timed = ""  # what _waiting is for
    _head_bytes = 0
    _counted: str | None = None

    def may_have_many(self, address: str) -> bool:
        """Whether an address is a proxy's, who speaks for many."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, unless there are too many already."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        many = self.addresses[address] >= self.rules.connections_per_address
        if len(self.connections) > self.connections_max or (
            many and not self.may_have_many(address)
        ):
            self._end()
            return
        self._counted = address
        self.addresses[address] += 1
        self._mind()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it and its timers."""
        self._give_up_answers()
        super().connection_lost(exc)
        self._awaits = ""
        self._mind()
        self._unread = _cancelled(self._unread)
        if self._counted is not None:
            self.addresses[self._counted] -= 1
            if self.addresses[self._counted] <= 0:
                del self.addresses[self._counted]
            self._counted = None

    def data_received(self, data: bytes) -> None:
        """Read on; once the rest of a request is missing, it has a time to come."""
        before = self._awaits
        super().data_received(data)
        if self._awaits == "head" == before:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._end()
        if self._awaits or self._waiting is not None:
            self._mind()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._awaits = "head"
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """A body may follow."""
        self._awaits = "body"
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All is here."""
        self._awaits = ""
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        """The client takes its answer more slowly than it is made."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.rules.answer_seconds, self._end)

    def resume_writing(self) -> None:
        """It took some."""
        super().resume_writing()
        self._unread = _cancelled(self._unread)

    def timeout_keep_alive_handler(self) -> None:
        """Hang up; on a client that has not taken its answer, even with some of it left."""
        super().timeout_keep_alive_handler()
        if self._unread is None and self.transport.get_write_buffer_size():
            self._unread = self.loop.call_later(self.rules.answer_seconds, self._end)

    def _end(self) -> None:
        """Hang up at once; what was still to be sent is dropped."""
        self._give_up_answers()
        self.transport.abort()

    def _give_up_answers(self) -> None:
        """Nobody will read them: of several, uvicorn would write all but the last all the same."""
        self.pipeline.clear()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def _mind(self) -> None:
        """Set the timer for what is missing now; it runs on while the same is missing."""
        if self._awaits == self._timed and self._waiting is not None:
            return
        self._waiting = _cancelled(self._waiting)
        self._timed = self._awaits
        if self._awaits:
            seconds = self.rules.head_seconds if self._awaits == "head" else self.rules.body_seconds
            self._waiting = self.loop.call_later(seconds, self._end)


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """What is left of a timer: nothing."""
    if timer is not None:
        timer.cancel()
    return None


def _raise_open_files(wanted: int) -> int:
    """Let this process have so many open files, or as many as the system allows; how many."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most: Any = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):  # macOS names a hard limit it refuses
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else soft
