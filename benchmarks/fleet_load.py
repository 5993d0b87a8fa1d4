"""Simulated hosts that sync over HTTP with a real server: the load generator of `fleet_http`.

    python -m benchmarks.fleet_load HOSTS PORT...

Each host has its token, its own address (X-Forwarded-For, as behind a proxy), the tasks that it was
granted, and a time of its next sync. It opens a connection for each sync, as an agent does after a
minute's pause, reports its tasks and asks for as many again. It obeys what an agent obeys: the
server's Retry-After, and backoff with jitter after a failure. Orders arrive as lines of JSON, and
are answered with a line of figures each.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import resource
import sys
import time
from collections import Counter
from typing import cast

import msgspec
import uvloop

from axiom_client.decide.retry import retry_sync
from axiom_server.cli.shared import collect_garbage_less_often

OPEN_MAX = 6_000  # connections at once; further hosts wait as their SYN would
ANSWER_SECONDS = 60.0  # an agent's patience
TICK_SECONDS = 0.01
GRACE_SECONDS = 15.0  # after an order's end, for the answers that are under way
SOURCES = 200  # loopback addresses to connect from, so that ports suffice


class Order(msgspec.Struct, kw_only=True):
    """What to do: send ``rate`` syncs a second for ``seconds``, or with rate 0 all hosts at once.

    All at once: it ends when every host was answered, or after ``seconds``.
    """

    rate: float = 0.0
    seconds: float


class Figures(msgspec.Struct, kw_only=True):
    """What came of an order. Times in milliseconds unless a name says otherwise.

    sent, answered, refused, failed   requests: all, with 200, with 503 or 429, without an answer
    in_time            answered before the order's end; the others had been sent before it
    seconds            until the last answer that counts
    answer_ms          percentiles 50, 90, 99, 100 of the requests that were answered
    refusal_ms         ... of those that were refused
    return_seconds     with rate 0: percentiles of the time until each host was answered
    refusals_max       the most that one host was sent away
    never              hosts that were not answered at all
    cpu_seconds        processor time of the generator
    """

    sent: int
    answered: int
    in_time: int
    refused: int
    failed: int
    seconds: float
    answer_ms: list[float]
    refusal_ms: list[float]
    return_seconds: list[float]
    refusals_max: int
    never: int
    cpu_seconds: float
    failures: dict[str, int]


class Grant(msgspec.Struct):
    """The part of a grant that a host uses."""

    task_id: int
    seed: int


class Answer(msgspec.Struct):
    """The part of an answer that a host uses."""

    grants: list[Grant]


_decode = msgspec.json.Decoder(Answer).decode
_encode = msgspec.json.Encoder().encode


def token(host: int) -> str:
    """The token of a simulated host; `fleet_http` stores its hash."""
    return f"bench-{host}"


class Exchange(asyncio.Protocol):
    """One request on a connection of its own."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = b""
        self.answer: asyncio.Future[tuple[int, bytes, float]] = (
            asyncio.get_running_loop().create_future()
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Collect the answer."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        lower = head.lower()
        if len(body) >= _number(lower, b"content-length:") and not self.answer.done():
            status, retry = int(head[9:12]), _number(lower, b"retry-after:")
            self.answer.set_result((status, body, retry))
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail if the answer is not complete."""
        if not self.answer.done():
            self.answer.set_exception(error or ConnectionResetError("closed"))


def _number(head: bytes, name: bytes) -> float:
    _, found, rest = head.partition(name)
    return float(rest.partition(b"\r\n")[0]) if found else 0.0


class Fleet:
    """All simulated hosts."""

    def __init__(self, count: int, ports: list[int]) -> None:
        self._count = count
        self._ports = ports
        self._held: list[list[Grant]] = [[] for _ in range(count)]
        self._requests = 0
        self._next = 0

    async def execute(self, order: Order) -> Figures:
        """Carry out an order."""
        run = Run(self, order)
        before = time.process_time()
        await run.finish()
        return run.figures(time.process_time() - before)

    def next_hosts(self) -> list[int]:
        """All hosts, beginning with the one whose turn it is."""
        return [*range(self._next, self._count), *range(self._next)]

    def advance(self, count: int) -> None:
        """So many hosts have had their turn."""
        self._next = (self._next + count) % self._count

    def request(self, host: int) -> bytes:
        """The bytes of a host's next sync."""
        self._requests += 1
        reports = [
            {
                "task_id": grant.task_id, "outcome": "success", "elapsed_seconds": 0.01,
                "cpu_seconds": 0.01,
                "result": {"valid": 1, "configs_done": 3, "exponent": 0.5 + grant.seed * 1e-9},
            }
            for grant in self._held[host]
        ]  # fmt: skip
        capacity = {"cpu_slots_free": 1, "cpu_slots": 1, "memory_free_bytes": 1 << 34,
                    "disk_free_bytes": 1 << 40}  # fmt: skip
        body = _encode({"request_id": f"r{time.time_ns()}-{self._requests}", "capacity": capacity,
                        "reports": reports})  # fmt: skip
        address = b"10.%d.%d.%d" % (host >> 16, host >> 8 & 255, host & 255)
        return (
            b"POST /api/v1/sync HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %b\r\nX-Forwarded-For: %b\r\nContent-Length: %d\r\n\r\n"
            % (token(host).encode(), address, len(body))
        ) + body

    async def exchange(self, host: int) -> tuple[int, float]:
        """One sync: status and Retry-After. Raises OSError, TimeoutError."""
        request = self.request(host)
        async with asyncio.timeout(ANSWER_SECONDS):
            _, exchange = await asyncio.get_running_loop().create_connection(
                lambda: Exchange(request), "127.0.0.1", self._ports[host % len(self._ports)],
                local_addr=(f"127.0.1.{1 + host % SOURCES}", 0),
            )  # fmt: skip
            status, body, retry = await exchange.answer
        if status == 200:
            self._held[host] = _decode(body).grants
        elif status not in (429, 503):
            raise RuntimeError(f"status {status}: {body[:200]!r}")
        return status, retry


class Run:
    """One order under way."""

    def __init__(self, fleet: Fleet, order: Order) -> None:
        self._fleet = fleet
        self._order = order
        self._began = time.monotonic()
        self._places = asyncio.Semaphore(OPEN_MAX)
        self._due: list[tuple[float, int]] = []
        self._sent = self._last = 0.0
        self._in_time = 0
        self._answers: list[float] = []
        self._refusals: list[float] = []
        self._returned: dict[int, float] = {}
        self._sent_away: Counter[int] = Counter()
        self._failures: Counter[str] = Counter()
        self._failed_in_a_row: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        hosts = fleet.next_hosts()
        if order.rate:
            hosts = hosts[: int(order.rate * order.seconds)]
            fleet.advance(len(hosts))
        self._hosts = hosts
        spacing = 1 / order.rate if order.rate else 0.0
        self._period = len(fleet.next_hosts()) * spacing
        self._due = [(index * spacing, host) for index, host in enumerate(hosts)]

    async def finish(self) -> None:
        """Send every sync at its time, until the order is done."""
        while not self._is_done():
            now = self._now()
            while self._due and self._due[0][0] <= now:
                _, host = heapq.heappop(self._due)
                task = asyncio.create_task(self._sync(host))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(TICK_SECONDS)
        if self._tasks and self._order.rate:
            await asyncio.wait(self._tasks, timeout=GRACE_SECONDS)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _is_done(self) -> bool:
        late = self._now() >= self._order.seconds
        return late or (not self._order.rate and len(self._returned) == len(self._hosts))

    async def _sync(self, host: int) -> None:
        async with self._places:
            began = self._now()
            self._sent += 1
            try:
                status, retry = await self._fleet.exchange(host)
            except (OSError, TimeoutError, RuntimeError) as error:
                self._failures[f"{type(error).__name__}: {error}"[:100]] += 1
                self._come_back(host, 0.0)
                return
            took = 1000 * (self._now() - began)
        if status == 200:
            self._failed_in_a_row[host] = 0
            self._answers.append(took)
            self._last = self._now()
            self._in_time += self._last < self._order.seconds
            self._returned.setdefault(host, self._last)
            if self._order.rate:  # a small fleet comes again within the same order
                heapq.heappush(self._due, (max(began + self._period, self._last), host))
        else:
            self._refusals.append(took)
            self._sent_away[host] += 1
            self._come_back(host, retry)

    def _come_back(self, host: int, retry: float) -> None:
        """As an agent decides it."""
        self._failed_in_a_row[host] += 1
        decision = retry_sync(self._now(), self._failed_in_a_row[host], random.random(), retry)
        heapq.heappush(self._due, (decision.at, host))

    def figures(self, cpu_seconds: float) -> Figures:
        """The figures."""
        returned = list(self._returned.values()) if not self._order.rate else []
        return Figures(
            sent=int(self._sent), answered=len(self._answers), in_time=self._in_time,
            refused=len(self._refusals),
            failed=sum(self._failures.values()), seconds=self._last,
            answer_ms=percentiles(self._answers), refusal_ms=percentiles(self._refusals),
            return_seconds=percentiles(returned),
            refusals_max=max(self._sent_away.values(), default=0),
            never=len(self._hosts) - len(self._returned) if not self._order.rate else 0,
            cpu_seconds=cpu_seconds, failures=dict(self._failures.most_common(5)),
        )  # fmt: skip


def percentiles(values: list[float]) -> list[float]:
    """The percentiles 50, 90, 99 and 100; empty without values."""
    if not values:
        return []
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, int(len(ordered) * p))] for p in (0.5, 0.9, 0.99, 1.0)]


async def obey(fleet: Fleet) -> None:
    """Carry out the orders from the standard input."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        figures = await fleet.execute(msgspec.json.decode(line, type=Order))
        print(msgspec.json.encode(figures).decode(), flush=True)


def main(words: list[str]) -> None:
    """Run until the standard input ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    collect_garbage_less_often()  # it shares the cores
    uvloop.run(obey(Fleet(int(words[0]), [int(port) for port in words[1:]])))


if __name__ == "__main__":
    main(sys.argv[1:])
