"""A faulty network: an HTTP proxy in front of the servers, one port for each agent.

Each request goes to a random server, on a separate connection. ``LinkFault`` says what may happen
to it. Every answer of a server is recorded in ``Traffic``, also when it does not arrive, because a
server must not lose what it has acknowledged.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from tests.chaos.traffic import Traffic

Trouble = Literal[
    "delay", "cut_request", "cut_answer", "truncate", "half_close", "duplicate", "replay",
    "status_502", "html", "nonsense", "refuse",
]  # fmt: skip

_Trouble = Callable[["Link", bytes, asyncio.StreamWriter], Awaitable[bool]]

HEAD_BYTES_MAX = 1 << 16
ANSWER_SECONDS_MAX = 150.0  # a stopped server continues after some seconds
HTML = b"<html><head><title>Sign in</title></head><body>Welcome to the hotel</body></html>"


@dataclass
class LinkFault:
    """The fault on one agent's link: ``trouble`` occurs with probability ``chance``."""

    trouble: Trouble | None = None
    chance: float = 0.0

    def draw(self, rng: random.Random) -> Trouble | None:
        """The trouble of one request; None: none."""
        return self.trouble if rng.random() < self.chance else None


@dataclass
class Link:
    """One agent's link to the project."""

    name: str
    port: int = 0
    fault: LinkFault = field(default_factory=LinkFault)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Proxy:
    """All links, in one thread with its own event loop. ``servers``: ports; may change."""

    seed: int
    traffic: Traffic
    servers: list[int] = field(default_factory=list)
    troubles: dict[str, int] = field(default_factory=dict)
    _rng: random.Random = field(init=False)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def open(self, name: str) -> Link:
        """A new link that listens."""
        link = Link(name)

        async def listen() -> None:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                with suppress(asyncio.CancelledError):  # the end of the run
                    await self._serve(link, reader, writer)

            server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)
            link.port = server.sockets[0].getsockname()[1]

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result(10)
        return link

    def close(self) -> None:
        """Drop everything."""

        async def drop() -> None:
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(drop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    # --- one connection ---------------------------------------------------------------------------

    async def _serve(
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while request := await _read_request(reader):
                if not await self._pass_on(link, request, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # either side went away: that is what this is for
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _pass_on(self, link: Link, request: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; returns whether the connection stays open."""
        trouble = link.fault.draw(self._rng)
        if trouble is not None:
            self.troubles[trouble] = self.troubles.get(trouble, 0) + 1
            disturb: _Trouble = getattr(self, f"_{trouble}")  # the methods below have their names
            return await disturb(link, request, writer)
        return await self._plainly(link, request, writer)

    async def _plainly(self, link: Link, request: bytes, writer: asyncio.StreamWriter) -> bool:
        answer = await self._ask(link, request)
        if not answer:
            return False
        await _send(writer, answer)
        self.traffic.delivered(link.name, request, answer)
        return True

    async def _ask(self, link: Link, request: bytes) -> bytes:
        """A server's answer; empty when there is none."""
        self.traffic.sent(link.name, request)
        for port in self._rng.sample(self.servers, len(self.servers)):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue  # as a load balancer would
            try:
                writer.write(_closing(request))
                await writer.drain()
                answer = await asyncio.wait_for(reader.read(-1), ANSWER_SECONDS_MAX)
            finally:
                writer.close()
            if _is_whole(answer):
                self.traffic.answered(link.name, request, answer)
                return answer
            return b""
        return b""

    # --- troubles ---------------------------------------------------------------------------------

    async def _delay(self, link: Link, request: bytes, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(self._rng.uniform(0.1, 3))
        return await self._plainly(link, request, writer)

    async def _cut_request(self, link: Link, request: bytes, writer: asyncio.StreamWriter) -> bool:
        for port in self.servers[:1]:
            with suppress(OSError):
                _, upstream = await asyncio.open_connection("127.0.0.1", port)
                upstream.write(request[: self._rng.randrange(1, len(request))])
                await upstream.drain()
                upstream.transport.abort()
        writer.transport.abort()
        return False

    async def _cut_answer(self, link: Link, request: bytes, writer: asyncio.StreamWriter) -> bool:
        await self._ask(link, request)
        writer.transport.abort()
        return False

    async def _truncate(self, link: Link, request: bytes, writer: asyncio.StreamWriter) -> bool:
        answer = await self._ask(link, request)
        if len(answer) > 1:
            await _send(writer, answer[: self._rng.randrange(1, len(answer))])
        return False

    async def _half_close(self, link: Link, request: bytes, writer: asyncio.StreamWriter) -> bool:
        await self._ask(link, request)
        writer.write_eof()
        await asyncio.sleep(self._rng.uniform(0.1, 2))
        return False

    async def _duplicate(self, link: Link, request: bytes, writer: asyncio.StreamWriter) -> bool:
        """Send the request twice, at once or one after the other; return either answer."""
        if self._rng.random() < 0.5:
            answers = list(await asyncio.gather(self._ask(link, request), self._ask(link, request)))
        else:
            answers = [await self._ask(link, request), await self._ask(link, request)]
        answer = self._rng.choice(answers)
        if answer:
            await _send(writer, answer)
            self.traffic.delivered(link.name, request, answer)
        return bool(answer)

    async def _replay(self, link: Link, request: bytes, writer: asyncio.StreamWriter) -> bool:
        """Send it now, and again after later requests, as if a server had been stopped."""
        going_on = await self._plainly(link, request, writer)
        self._loop.call_later(
            self._rng.uniform(0.5, 6), lambda: self._spawn(self._ask(link, request))
        )
        return going_on

    def _spawn(self, work: Awaitable[bytes]) -> None:
        async def quietly() -> None:
            with suppress(OSError, TimeoutError):
                await work

        self._loop.create_task(quietly())

    async def _status_502(self, link: Link, request: bytes, writer: asyncio.StreamWriter) -> bool:
        return await self._instead(link, request, writer, b"502 Bad Gateway", HTML)

    async def _html(self, link: Link, request: bytes, writer: asyncio.StreamWriter) -> bool:
        return await self._instead(link, request, writer, b"200 OK", HTML)

    async def _nonsense(self, link: Link, request: bytes, writer: asyncio.StreamWriter) -> bool:
        return await self._instead(link, request, writer, b"200 OK", self._rng.randbytes(99))

    async def _instead(
        self, link: Link, request: bytes, writer: asyncio.StreamWriter, status: bytes, body: bytes
    ) -> bool:
        """Answer instead of the server, which may still have received the request."""
        if self._rng.random() < 0.5:
            await self._ask(link, request)
        await _send(
            writer,
            b"HTTP/1.1 %s\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s"
            % (status, len(body), body),
        )
        return True

    async def _refuse(self, link: Link, request: bytes, writer: asyncio.StreamWriter) -> bool:
        writer.transport.abort()
        return False


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    """A whole request; empty when the client has no more."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    return head + await reader.readexactly(_content_length(head) or 0)


def _content_length(head: bytes) -> int | None:
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return int(line[15:])
    return None


def _closing(request: bytes) -> bytes:
    """The request with "Connection: close", so that the answer ends with the connection."""
    head, _, body = request.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body


def _is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    length = _content_length(head)
    return bool(found) and length in (None, len(body))


async def _send(writer: asyncio.StreamWriter, answer: bytes) -> None:
    head, end, body = answer.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if line.lower() != b"connection: close"]
    writer.write(b"\r\n".join(lines) + end + body)
    await writer.drain()
