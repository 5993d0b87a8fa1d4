"""A faulty network: an HTTP proxy in front of the servers, one port for each agent.

Each request goes to a server that is drawn at random, in a connection of its own. What may happen
to it on the way is in ``Weather``. Whatever leaves a server is handed to ``Traffic``, also when it
does not arrive: what a server has acknowledged it must stand by.
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

_Trouble = Callable[["Gate", bytes, asyncio.StreamWriter], Awaitable[bool]]

HEAD_BYTES_MAX = 1 << 16
ANSWER_SECONDS_MAX = 150.0  # a stopped server goes on after seconds
HTML = b"<html><head><title>Sign in</title></head><body>Welcome to the hotel</body></html>"


@dataclass
class Weather:
    """What befalls the requests of one agent: ``trouble`` with probability ``chance``."""

    trouble: Trouble | None = None
    chance: float = 0.0

    def draw(self, rng: random.Random) -> Trouble | None:
        """The fate of one request."""
        return self.trouble if rng.random() < self.chance else None


@dataclass
class Gate:
    """One agent's way to the project."""

    name: str
    port: int = 0
    weather: Weather = field(default_factory=Weather)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Proxy:
    """All gates, in one thread with a loop of its own. ``servers``: ports, changed freely."""

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

    def open(self, name: str) -> Gate:
        """A new gate that listens."""
        gate = Gate(name)

        async def listen() -> None:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                with suppress(asyncio.CancelledError):  # the end of the run
                    await self._serve(gate, reader, writer)

            server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)
            gate.port = server.sockets[0].getsockname()[1]

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result(10)
        return gate

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
        self, gate: Gate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while request := await _read_request(reader):
                if not await self._pass_on(gate, request, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # either side went away: that is what this is for
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _pass_on(self, gate: Gate, request: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection may go on."""
        trouble = gate.weather.draw(self._rng)
        if trouble is not None:
            self.troubles[trouble] = self.troubles.get(trouble, 0) + 1
            befall: _Trouble = getattr(self, f"_{trouble}")  # the methods below have their names
            return await befall(gate, request, writer)
        return await self._plainly(gate, request, writer)

    async def _plainly(self, gate: Gate, request: bytes, writer: asyncio.StreamWriter) -> bool:
        answer = await self._ask(gate, request)
        if not answer:
            return False
        await _send(writer, answer)
        self.traffic.delivered(gate.name, request, answer)
        return True

    async def _ask(self, gate: Gate, request: bytes) -> bytes:
        """What a server answers; empty when none does."""
        self.traffic.sent(gate.name, request)
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
                self.traffic.answered(gate.name, request, answer)
                return answer
            return b""
        return b""

    # --- troubles ---------------------------------------------------------------------------------

    async def _delay(self, gate: Gate, request: bytes, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(self._rng.uniform(0.1, 3))
        return await self._plainly(gate, request, writer)

    async def _cut_request(self, gate: Gate, request: bytes, writer: asyncio.StreamWriter) -> bool:
        for port in self.servers[:1]:
            with suppress(OSError):
                _, upstream = await asyncio.open_connection("127.0.0.1", port)
                upstream.write(request[: self._rng.randrange(1, len(request))])
                await upstream.drain()
                upstream.transport.abort()
        writer.transport.abort()
        return False

    async def _cut_answer(self, gate: Gate, request: bytes, writer: asyncio.StreamWriter) -> bool:
        await self._ask(gate, request)
        writer.transport.abort()
        return False

    async def _truncate(self, gate: Gate, request: bytes, writer: asyncio.StreamWriter) -> bool:
        answer = await self._ask(gate, request)
        if len(answer) > 1:
            await _send(writer, answer[: self._rng.randrange(1, len(answer))])
        return False

    async def _half_close(self, gate: Gate, request: bytes, writer: asyncio.StreamWriter) -> bool:
        await self._ask(gate, request)
        writer.write_eof()
        await asyncio.sleep(self._rng.uniform(0.1, 2))
        return False

    async def _duplicate(self, gate: Gate, request: bytes, writer: asyncio.StreamWriter) -> bool:
        """Twice at the same time, or one after the other; either answer may be the one."""
        if self._rng.random() < 0.5:
            answers = list(await asyncio.gather(self._ask(gate, request), self._ask(gate, request)))
        else:
            answers = [await self._ask(gate, request), await self._ask(gate, request)]
        answer = self._rng.choice(answers)
        if answer:
            await _send(writer, answer)
            self.traffic.delivered(gate.name, request, answer)
        return bool(answer)

    async def _replay(self, gate: Gate, request: bytes, writer: asyncio.StreamWriter) -> bool:
        """Once now, and again when the agent has gone on: a server stood still in between."""
        going_on = await self._plainly(gate, request, writer)
        self._loop.call_later(
            self._rng.uniform(0.5, 6), lambda: self._spawn(self._ask(gate, request))
        )
        return going_on

    def _spawn(self, work: Awaitable[bytes]) -> None:
        async def quietly() -> None:
            with suppress(OSError, TimeoutError):
                await work

        self._loop.create_task(quietly())

    async def _status_502(self, gate: Gate, request: bytes, writer: asyncio.StreamWriter) -> bool:
        return await self._instead(gate, request, writer, b"502 Bad Gateway", HTML)

    async def _html(self, gate: Gate, request: bytes, writer: asyncio.StreamWriter) -> bool:
        return await self._instead(gate, request, writer, b"200 OK", HTML)

    async def _nonsense(self, gate: Gate, request: bytes, writer: asyncio.StreamWriter) -> bool:
        return await self._instead(gate, request, writer, b"200 OK", self._rng.randbytes(99))

    async def _instead(
        self, gate: Gate, request: bytes, writer: asyncio.StreamWriter, status: bytes, body: bytes
    ) -> bool:
        """Answer for the server, which may have had the request all the same."""
        if self._rng.random() < 0.5:
            await self._ask(gate, request)
        await _send(
            writer,
            b"HTTP/1.1 %s\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s"
            % (status, len(body), body),
        )
        return True

    async def _refuse(self, gate: Gate, request: bytes, writer: asyncio.StreamWriter) -> bool:
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
    """The request as the last of its connection, so that the answer ends with it."""
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
