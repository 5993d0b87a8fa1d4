"""Time limits for clients that send or read slowly, on purpose or not.

uvicorn closes an idle connection, but it waits without limit for a head or a body that arrives byte
by byte, accepts a head of any length, and keeps an answer that the client does not read. Its
documented options have no time-out for any of these; hypercorn and granian have none for a whole
body. So two documented interfaces are used around uvicorn:

    Connection         an asyncio protocol between the socket and uvicorn's own protocol: it counts
                       connections, and closes those whose head or reading takes too long
    RequestDeadlines   ASGI middleware: it informs the connection when a request begins and ends,
                       and limits the time for the body

They are matched by the client's address and port, which are unique to an open connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from axiom_server.decide.rates import Limits

HEAD_BYTES_MAX = 32 * 1024  # of a request's first line and headers; an agent sends 300 bytes
DRAIN_BYTES_MAX = 64 * 1024  # of an unread body that are read, to use the connection again
DRAIN_SECONDS = 2.0
FILES_KEPT = 100  # open files reserved for the database, bundles and logs

Peer = tuple[str, int]


class Connections:
    """The open connections of one serving process, and the limits on them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: dict[Peer, Connection] = {}
        self._by_address: Counter[str] = Counter()
        self._proxies = [ipaddress.ip_network(proxy) for proxy in limits.proxies]
        allowed_files = _raise_open_files(limits.connections + FILES_KEPT)
        self._count_max = min(limits.connections, allowed_files - FILES_KEPT)

    def protocol(self, **options: Any) -> Connection:
        """Create the protocol of a new connection; uvicorn calls it (option ``http``)."""
        return Connection(self, HttpToolsProtocol(**options))

    def find(self, scope: Scope) -> Connection | None:
        """The connection of a request."""
        client = scope.get("client")
        return self._open.get((client[0], client[1])) if client else None

    def add(self, connection: Connection) -> bool:
        """Count a connection; False when there are too many already."""
        address = connection.peer[0]
        if len(self._open) >= self._count_max or not self._may_add(address):
            return False
        self._open[connection.peer] = connection
        self._by_address[address] += 1
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a connection, if it was counted."""
        if self._open.get(connection.peer) is not connection:
            return
        del self._open[connection.peer]
        address = connection.peer[0]
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def _may_add(self, address: str) -> bool:
        """Whether an address may have one more connection. Proxies have no limit of their own."""
        if self._by_address[address] < self.limits.connections_per_address:
            return True
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in proxy for proxy in self._proxies)


class Connection(asyncio.Protocol):
    """One client's connection: passes everything to uvicorn's protocol, and limits the time.

    It has at most three timers: for the head of a request, for its body, and for reading the
    answer. A request that arrives in one piece sets only the first.
    """

    def __init__(self, connections: Connections, inner: asyncio.Protocol) -> None:
        self._connections = connections
        self._inner = inner
        self._limits = connections.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._unread_bytes = 0
        self._head_bytes = 0
        self._reading_body = False
        self.answering = False
        self.lost = False
        self.peer: Peer = ("", 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, unless there are too many already."""
        self._transport = cast(asyncio.Transport, transport)
        self.peer = tuple((transport.get_extra_info("peername") or ("", 0))[:2])
        self._inner.connection_made(transport)
        if self._connections.add(self):
            self._set("head", self._limits.head_seconds, self.abort)
        else:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection and its timers."""
        self.lost = True
        for name in list(self._timers):
            self._cancel(name)
        self._connections.remove(self)
        self._inner.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Pass the bytes on; bytes outside a body belong to a head, whose size is limited."""
        self._inner.data_received(data)
        if self._reading_body or self.lost:
            return
        self._head_bytes += len(data)
        if not self.answering and "head" not in self._timers:
            self._set("head", self._limits.head_seconds, self.abort)
        if self._head_bytes > HEAD_BYTES_MAX:
            # If this piece completes a head, request_began resets the count before the check.
            self._loop.call_soon(self._check_head)

    def eof_received(self) -> bool | None:
        """The client sends no more."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """The client reads its answer more slowly than it is written."""
        self._inner.pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """The client has read most of its answer."""
        self._inner.resume_writing()
        if self._buffered():
            self._watch_reader()
        else:
            self._cancel("answer")

    def request_began(self, has_body: bool) -> None:
        """A head is complete."""
        self._cancel("head")
        self._head_bytes = 0
        self.answering = True
        self._reading_body = has_body
        if has_body:
            self._set("body", self._limits.body_seconds, self.abort)

    def body_ended(self) -> None:
        """The body is complete, or the rest of it will not be read."""
        self._reading_body = False
        self._cancel("body")

    def request_ended(self) -> None:
        """The answer is written; the next head may follow."""
        self.body_ended()
        self.answering = False
        if self._head_bytes:
            self._set("head", self._limits.head_seconds, self.abort)
        if self._buffered():
            self._watch_reader()

    def abort(self) -> None:
        """Close at once, dropping data that was not sent yet."""
        self.lost = True
        if self._transport is not None:
            self._transport.abort()

    def _check_head(self) -> None:
        if self._head_bytes > HEAD_BYTES_MAX:
            self.abort()

    def _watch_reader(self) -> None:
        self._unread_bytes = self._buffered()
        self._set("answer", self._limits.answer_seconds, self._check_reader)

    def _check_reader(self) -> None:
        """End a connection whose client has read nothing since the last check."""
        now = self._buffered()
        if now and now >= self._unread_bytes:
            self.abort()
        elif now:
            self._watch_reader()
        else:
            self._cancel("answer")

    def _buffered(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport else 0

    def _set(self, name: str, seconds: float, act: Callable[[], None]) -> None:
        self._cancel(name)
        self._timers[name] = self._loop.call_later(seconds, act)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


class RequestDeadlines:
    """ASGI middleware that informs connections when a request begins, has its body, and ends.

    If the body was not read when the answer begins, a short body is read and dropped. Otherwise the
    connection is closed after the answer, because the start of the next request is not known.
    """

    def __init__(self, app: ASGIApp, connections: Connections) -> None:
        self._app = app
        self._connections = connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request within its deadlines."""
        connection = self._connections.find(scope) if scope["type"] == "http" else None
        if connection is None:
            await self._app(scope, receive, send)
            return
        request = _Request(connection, scope, receive, send)
        connection.request_began(not request.body_complete)
        try:
            await self._app(scope, request.receive, request.send)
        finally:
            connection.request_ended()


class _Request:
    """The ``receive`` and ``send`` of one request, with a record of its body."""

    def __init__(self, connection: Connection, scope: Scope, receive: Receive, send: Send) -> None:
        names = {name for name, _ in scope["headers"]}
        self.body_complete = not names & {b"content-length", b"transfer-encoding"}
        self._waits_for_continue = b"expect" in names
        self._connection, self._receive, self._send = connection, receive, send

    async def receive(self) -> Message:
        """The next part of the body."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.body_complete = True
            self._connection.body_ended()
        return message

    async def send(self, message: Message) -> None:
        """Send the next part of the answer; nothing is sent on a lost connection."""
        if self._connection.lost:
            return
        if message["type"] == "http.response.start" and not self.body_complete:
            await self._drain()
            if not self.body_complete:
                headers = [*message.get("headers", []), (b"connection", b"close")]
                message = {**message, "headers": headers}
        await self._send(message)

    async def _drain(self) -> None:
        if self._waits_for_continue:  # reading would ask the client for its body
            return
        left = DRAIN_BYTES_MAX
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while left > 0 and not self.body_complete:
                    left -= len((await self.receive()).get("body", b""))


def _raise_open_files(wanted: int) -> int:
    """Raise the limit of open files to ``wanted`` or as far as allowed; returns the limit."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed: Any = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        with contextlib.suppress(OSError, ValueError):  # macOS refuses its own hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else soft
