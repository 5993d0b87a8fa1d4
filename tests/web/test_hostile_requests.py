"""Requests that try to cost the server more than they cost their sender, to a real server."""

from __future__ import annotations

import gzip
import json
import select
import socket
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import psutil
import pytest

from tests.support.programs import Server, server

MIB = 1 << 20
HOST_BYTES = 70 * MIB
ACCOUNTS, JOINS_EVERYWHERE = 6, 8
LIMITS = f"""
[limits]
host_bytes_burst = {HOST_BYTES}
host_bytes_per_second = 0.001
accounts_burst = {ACCOUNTS}
accounts_per_hour = 0.001
all_enrolments_burst = {JOINS_EVERYWHERE}
all_enrolments_per_minute = 0.001
"""
FACTS = {"name": "h", "os": "linux", "architecture": "x86_64", "cpu_cores": 1,
         "memory_bytes": 1 << 32, "disk_free_bytes": 1 << 32}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = server(tmp_path_factory.mktemp("hostile"))
    (made.folder / "project.toml").write_text(LIMITS)
    made.serve()
    try:
        yield made
    finally:
        assert made.stop() == 0


def join(project: Server, **more: str) -> httpx.Response:
    return httpx.post(f"{project.url}/api/v1/hosts", json={"host": FACTS, **more})


def sync(project: Server, token: str, body: bytes, **headers: str) -> httpx.Response:
    headers["Authorization"] = f"Bearer {token}"
    return httpx.post(f"{project.url}/api/v1/sync", content=body, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def member(project: Server) -> dict[str, str]:
    return dict(join(project).raise_for_status().json())


def head(token: str, length: int, extra: str = "") -> bytes:
    return (
        f"POST /api/v1/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"{extra}Content-Length: {length}\r\n\r\n"
    ).encode()


@contextmanager
def connected(project: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", project.port), 30) as made:
        yield made


def test_the_token_is_checked_before_the_body_is_read(project: Server) -> None:
    """An answer comes though not a byte of the body is sent."""
    for extra in ("", "Expect: 100-continue\r\n"):
        with connected(project) as stranger:
            stranger.sendall(head("no-such-token", 1_000_000, extra))
            answer = b""
            while piece := stranger.recv(65536):  # until the server closes
                answer += piece
            assert answer.startswith(b"HTTP/1.1 401 ")


def test_bodies_that_are_held_open_use_only_the_bytes_sent(
    project: Server, member: dict[str, str]
) -> None:
    assert project.process is not None
    process = psutil.Process(project.process.pid)
    before = process.memory_info().rss
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(b" " * 31 * MIB) + packer.flush(zlib.Z_SYNC_FLUSH)
    gzipped = "Content-Encoding: gzip\r\n"
    with ExitStack() as held:
        for token in [member["token"]] * 20 + ["no-such-token"] * 20:
            connection = held.enter_context(connected(project))
            connection.sendall(head(token, 1_000_000, gzipped) + bomb)
        assert httpx.get(f"{project.url}/healthz", timeout=30).is_success
        assert process.memory_info().rss - before < 100 * MIB


def test_one_address_does_not_fill_the_budget_of_all_bodies(
    project: Server, member: dict[str, str]
) -> None:
    with ExitStack() as held:
        connections = [held.enter_context(connected(project)) for _ in range(3)]
        for connection in connections:
            with suppress(ConnectionError):  # refused while it is sent
                connection.sendall(head(member["token"], 32 * MIB) + b" " * (24 * MIB))
        answered, _, _ = select.select(connections, [], [], 30)
        answer = answered[0].recv(65536)
    assert b" 503 " in answer.split(b"\r\n")[0]
    assert b"retry-after: " in answer


def test_the_decompressed_bytes_of_a_host_are_counted(
    project: Server, member: dict[str, str]
) -> None:
    """Small on the wire, large unpacked: after the host's burst it has to wait."""
    bomb = gzip.compress(b'{"request_id":"aaaaaaaa"' + b" " * (30 * MIB) + b"}")
    statuses = [
        sync(project, member["token"], bomb, **{"Content-Encoding": "gzip"}).status_code
        for _ in range(4)
    ]
    assert statuses == [400, 400, 400, 429]
    refused = sync(project, member["token"], b"{}")
    assert int(refused.headers["retry-after"]) > 0
    other = join(project, account_key=member["account_key"]).json()["token"]
    body = json.dumps({"request_id": "a-request", "capacity": {}}).encode()
    assert sync(project, other, body).status_code == 200


def test_new_accounts_and_joining_hosts_are_limited(
    project: Server, member: dict[str, str]
) -> None:
    """The fixture's account is one of them, and two hosts have joined before."""
    made = [join(project) for _ in range(ACCOUNTS)]
    assert [a.status_code for a in made] == [201] * (ACCOUNTS - 1) + [429]
    assert "account" in made[-1].json()["title"]
    assert int(made[-1].headers["retry-after"]) > 0
    with_key = [join(project, account_key=member["account_key"]) for _ in range(JOINS_EVERYWHERE)]
    assert with_key[0].status_code == 201
    assert with_key[-1].status_code == 429


def test_a_forwarded_address_is_ignored_by_default(project: Server) -> None:
    """The accounts of this address are used up, whatever address a request names."""
    headers = {"X-Forwarded-For": "203.0.113.7"}
    answer = httpx.post(f"{project.url}/api/v1/hosts", json={"host": FACTS}, headers=headers)
    assert answer.status_code == 429
