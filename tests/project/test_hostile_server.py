"""The HTTP interface against a server that sends anything at all: a failed contact, and no more."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
from tuf.api.exceptions import DownloadError, SlowRetrievalError

from axiom_client.errors import NotAnAxiomServer, ProjectProblem, ServerNotThere
from axiom_client.project import answers, api
from axiom_client.project.api import Api, Network, Overloaded
from axiom_client.project.fetching import HttpFetcher
from axiom_protocol.messages import Capacity, EnrolRequest, HostFacts, SyncRequest

pytestmark = pytest.mark.integration

REQUEST = SyncRequest(request_id="request-1", capacity=Capacity())
FACTS = HostFacts(
    name="h", os="Linux", architecture="x86_64", cpu_cores=1, memory_bytes=1, disk_free_bytes=1
)
TEST_SECONDS_MAX = 60.0


@contextmanager
def answering(pieces: Callable[[], Iterable[bytes]]) -> Iterator[str]:
    """A server on loopback that answers every request with ``pieces()``; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.recv(65_536)
                    for piece in pieces():
                        connection.sendall(piece)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65_536):  # closing over unread bytes would reset it
                        pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def problem_of(*pieces: bytes) -> ProjectProblem:
    """What a sync against such an answer raises; anything but a ProjectProblem fails the test."""
    with answering(lambda: pieces) as url, pytest.raises(ProjectProblem) as caught:
        asyncio.run(_sync(url))
    return caught.value


async def _sync(url: str) -> None:
    client = Api(url, Network(), "token")
    try:
        await asyncio.wait_for(client.sync(REQUEST), TEST_SECONDS_MAX)
    finally:
        await client.close()


def test_an_answer_packed_twice_is_not_unpacked() -> None:
    bomb = gzip.compress(gzip.compress(bytes(200 << 20)))
    tracemalloc.start()
    problem = problem_of(response(bomb, "Content-Encoding: gzip, gzip"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(problem, NotAnAxiomServer)
    assert peak < 50 << 20


def test_an_answer_that_unpacks_without_end_is_cut_off() -> None:
    bomb = gzip.compress(bytes(500 << 20), compresslevel=1)
    tracemalloc.start()
    problem = problem_of(response(bomb, "Content-Encoding: gzip"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(problem, NotAnAxiomServer)
    assert peak < 50 << 20


def test_the_number_of_values_is_bounded_before_they_are_decoded() -> None:
    body = b'{"request_id":"request-1","next_sync_seconds":1,"grants":[],"x":[' + b"[]," * 1_000_000
    problem = problem_of(response(body + b"[]]}"))
    assert isinstance(problem, NotAnAxiomServer)


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Encoding: gzip",),
        ("Content-Encoding: deflate",),
        ("Content-Encoding: br",),
        ("Content-Encoding: zstd",),
        ("Content-Encoding: nonsense",),
        ("Content-Encoding: gzip", "Content-Encoding: gzip"),
        ("Content-Encoding: \xff",),
        ("Content-Type: application/json; charset=\xb2",),
        ("Set-Cookie: a=b; expires=\xb2\xb2\xb2",),
        ("Location: http://[::1",),
    ],
)
def test_malformed_bodies_and_headers(headers: tuple[str, ...]) -> None:
    raw = response(b"neither gzip nor JSON").replace(
        b"\r\n\r\n", "".join(f"\r\n{line}" for line in headers).encode("latin-1") + b"\r\n\r\n"
    )
    problem_of(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\xff\x00",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n".encode("latin-1"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Length: 8\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 200_000 + b"\r\n\r\n",
        response(b"[" * 100_000),
        response(b'{"request_id":' + b"9" * 5_000 + b"}"),
        response(b'{"request_id":"\xff"}'),
    ],
)  # fmt: skip
def test_broken_answers(raw: bytes) -> None:
    problem_of(raw)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("\xb2", 0.0),
        ("-1", 0.0),
        ("1e9", 0.0),
        ("nan", 0.0),
        ("7", 7.0),
        ("000000000000007", 7.0),
        ("9" * 400, answers.RETRY_AFTER_SECONDS_MAX),
        ("9" * 5_000, answers.RETRY_AFTER_SECONDS_MAX),
        ("86400", answers.RETRY_AFTER_SECONDS_MAX),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 0.0),
    ],
)
def test_the_waits_in_answers_are_bounded(header: str, seconds: float) -> None:
    raw = response(b"", status="503 Busy").replace(
        b"\r\n\r\n", f"\r\nRetry-After: {header}\r\n\r\n".encode("latin-1")
    )
    problem = problem_of(raw)
    assert isinstance(problem, Overloaded)
    assert problem.retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("head", "drip"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 1_000),
    ],
    ids=["100-continue", "bytes"],
)
def test_one_deadline_ends_an_exchange(
    head: bytes, drip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "EXCHANGE_SECONDS", 1.0)
    with (
        answering(lambda: itertools.chain([head], itertools.repeat(drip))) as url,
        pytest.raises(ServerNotThere, match="took over 1 s"),
    ):
        asyncio.run(_sync(url))


@pytest.mark.parametrize(
    "drip",
    [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "],
    ids=["100-continue", "header"],
)
def test_a_bundle_file_whose_headers_never_end_is_slow(drip: bytes) -> None:
    def pieces() -> Iterator[bytes]:
        yield drip
        for _ in range(200):
            time.sleep(0.05)
            yield drip if drip.endswith(b"\r\n\r\n") else b"x"

    client = httpx.Client()
    fetcher = HttpFetcher(client, file_seconds_max=0.5, silence_seconds_max=5.0)
    with answering(pieces) as url, pytest.raises(SlowRetrievalError, match="took over"):
        fetcher.download_bytes(f"{url}/timestamp.json", 1000)


@pytest.mark.parametrize("length", ["\xb2", "9" * 5_000, "-1"])
def test_a_bundle_files_announced_length_is_not_believed(length: str) -> None:
    raw = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode("latin-1")
    with (
        answering(lambda: [raw]) as url,
        httpx.Client() as client,
        pytest.raises(DownloadError),
    ):
        HttpFetcher(client).download_bytes(f"{url}/root.json", 1000)


def test_cookies_are_not_kept() -> None:
    body = b'{"request_id":"request-1","next_sync_seconds":1}'

    async def sync_twice(url: str) -> int:
        client = Api(url, Network(), "token")
        try:
            await client.sync(REQUEST)
            return len(client._client.cookies)
        finally:
            await client.close()

    with answering(lambda: [response(body, "Set-Cookie: a=b")]) as url:
        assert asyncio.run(sync_twice(url)) == 0


@pytest.mark.parametrize("token", ["", "two words", "\\u00fc", "a\\r\\nX: y", "x" * 501])
def test_a_token_that_cannot_be_a_header_is_refused(token: str) -> None:
    body = f'{{"host_id":1,"token":"{token}","user":"u"}}'.encode()

    async def enrol(url: str) -> None:
        client = Api(url, Network())
        try:
            await client.enrol(EnrolRequest(host=FACTS))
        finally:
            await client.close()

    with (
        answering(lambda: [response(body, status="201 Created")]) as url,
        pytest.raises(NotAnAxiomServer),
    ):
        asyncio.run(enrol(url))
