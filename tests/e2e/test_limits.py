"""Clients with too many or too slow requests, against the real server; others are not affected."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import psutil
import pytest

from tests.support.processes import wait_for
from tests.support.programs import Server, server

HOST_BURST, ADDRESS_BURST, JOIN_BURST, CONNECTIONS = 8, 30, 6, 12
LIMITS = f"""
[limits]
host_burst = {HOST_BURST}
host_per_second = 0.01
address_burst = {ADDRESS_BURST}
address_per_second = 0.01
enrolments_burst = {JOIN_BURST}
enrolments_per_minute = 0.1
head_seconds = 1.0
body_seconds = 2.0
answer_seconds = 1.0
connections_per_address = {CONNECTIONS}
proxies = ["127.0.0.1"]
"""
FACTS = {"name": "h", "os": "linux", "architecture": "x86_64", "cpu_cores": 1,
         "memory_bytes": 1 << 32, "disk_free_bytes": 1 << 32}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = server(tmp_path_factory.mktemp("limits"))
    config = made.folder / "project.toml"
    config.write_text(LIMITS)
    made.serve()
    try:
        yield made
    finally:
        assert made.stop() == 0


@contextmanager
def behind_a_proxy(project: Server, address: str) -> Iterator[httpx.Client]:
    """Requests as a proxy on this machine passes them on for a client at ``address``."""
    headers = {"X-Forwarded-For": address}
    with httpx.Client(base_url=project.url, headers=headers, trust_env=False) as client:
        yield client


def join(client: httpx.Client) -> httpx.Response:
    return client.post("/api/v1/hosts", json={"host": FACTS})


def sync(client: httpx.Client, token: str) -> httpx.Response:
    request = {"request_id": "a-request", "capacity": {}}
    return client.post("/api/v1/sync", json=request, headers={"Authorization": f"Bearer {token}"})


def refused(answer: httpx.Response) -> bool:
    if answer.status_code != 429:
        return False
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Too many requests" in json.loads(answer.content)["title"]
    return True


def test_a_host_is_counted_by_its_token_and_others_at_its_address_are_not(
    project: Server,
) -> None:
    with behind_a_proxy(project, "192.0.2.1") as client:
        storming, quiet = (join(client).json()["token"] for _ in range(2))
        assert sync(client, quiet).status_code == 200
        answers = [sync(client, storming) for _ in range(HOST_BURST + 5)]
        assert [a.status_code for a in answers[:HOST_BURST]] == [200] * HOST_BURST
        assert all(refused(a) for a in answers[HOST_BURST:])
        assert sync(client, quiet).status_code == 200
    with behind_a_proxy(project, "192.0.2.2") as elsewhere:
        assert refused(sync(elsewhere, storming))  # moving does not help


def test_an_address_is_counted_for_all_else_and_known_hosts_there_go_on(project: Server) -> None:
    with behind_a_proxy(project, "192.0.2.3") as client:
        token = join(client).json()["token"]
        assert sync(client, token).status_code == 200
        guesses = [sync(client, f"guess-{n}") for n in range(ADDRESS_BURST)]
        assert guesses[0].status_code == 401
        assert refused(guesses[-1])
        assert refused(client.get("/"))
        assert sync(client, token).status_code == 200
    with behind_a_proxy(project, "192.0.2.4") as other:
        assert other.get("/healthz").status_code == 200


def test_joining_has_separate_limits(project: Server) -> None:
    with behind_a_proxy(project, "192.0.2.5") as client:
        answers = [join(client) for _ in range(JOIN_BURST + 3)]
        assert [a.status_code for a in answers[:JOIN_BURST]] == [201] * JOIN_BURST
        assert all(refused(a) for a in answers[JOIN_BURST:])
        assert client.get("/healthz").status_code == 200


def test_a_client_cannot_choose_its_address(project: Server) -> None:
    """A client's own entry in the header is to the left of the proxy's."""
    with behind_a_proxy(project, "") as client:
        for n in range(ADDRESS_BURST):
            client.get("/healthz", headers={"X-Forwarded-For": f"198.51.100.{n}, 192.0.2.6"})
        headers = {"X-Forwarded-For": "203.0.113.1, 192.0.2.6"}
        assert refused(client.get("/healthz", headers=headers))


def test_an_address_of_ipv6_is_its_network(project: Server) -> None:
    with behind_a_proxy(project, "") as client:

        def ask(address: str) -> httpx.Response:
            return client.get("/healthz", headers={"X-Forwarded-For": address})

        for n in range(ADDRESS_BURST):
            ask(f"2001:db8:1:1::{n + 1:x}")
        assert refused(ask("2001:db8:1:1:ffff::1"))
        assert ask("2001:db8:1:2::1").status_code == 200


# Slow clients


@contextmanager
def connected(project: Server, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.create_connection(
        ("127.0.0.1", project.port), 30, source_address=(source, 0)
    ) as made:
        yield made


def hung_up(connection: socket.socket) -> bool:
    """Whether the server ends the connection before this side's time-out."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def drip(connection: socket.socket, piece: bytes, seconds: float = 20.0) -> float:
    """Send a piece every tenth of a second until the server hangs up; after how long it did."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        try:
            connection.sendall(piece)
        except ConnectionError:
            break
        time.sleep(0.1)
    return time.monotonic() - began


HEAD = b"POST /api/v1/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n"


def test_a_connection_that_says_nothing_is_ended(project: Server) -> None:
    with connected(project) as silent:
        assert hung_up(silent)


def test_a_head_that_comes_byte_by_byte_is_ended(project: Server) -> None:
    with connected(project) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nX: ")
        assert drip(slow, b"a") < 15


def test_a_body_that_comes_byte_by_byte_is_ended(project: Server) -> None:
    with connected(project) as slow:
        slow.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
        assert 1 < drip(slow, b" ") < 15
    with connected(project) as slow:
        slow.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        assert 1 < drip(slow, b"1\r\n \r\n") < 15


def test_a_head_without_end_is_ended(project: Server) -> None:
    with connected(project) as endless:
        endless.sendall(b"GET / HTTP/1.1\r\n")
        assert drip(endless, b"X: " + b"a" * 8000 + b"\r\n") < 15


def test_an_answer_that_is_not_read_is_dropped(project: Server) -> None:
    """Thousands of requests in a row on one connection, without reading any answer."""
    with connected(project) as deaf:
        deaf.settimeout(0.5)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asking = b"GET /bundles/metadata/root.json HTTP/1.1\r\nHost: x\r\n\r\n" * 500
        until = time.monotonic() + 60
        with pytest.raises(ConnectionError):  # noqa: PT012
            while time.monotonic() < until:
                with suppress(TimeoutError):
                    deaf.sendall(asking)


@pytest.mark.parametrize("closing", [b"", b"Connection: close\r\n"])
def test_one_long_answer_that_is_not_read_is_dropped(project: Server, closing: bytes) -> None:
    """More than the kernel buffers of one answer, with no other request after it."""
    long = project.folder / "bundles" / "targets" / "long.bin"
    long.write_bytes(bytes(32 << 20))
    request = b"GET /bundles/targets/long.bin HTTP/1.1\r\nHost: x\r\n"
    with connected(project) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(request + closing + b"\r\n")
        wait_for("the connection to be gone", lambda: "ESTABLISHED" not in _connections(project))


def test_a_short_head_before_a_long_body_is_no_long_head(project: Server) -> None:
    """Sent in as few pieces as the kernel makes."""
    with behind_a_proxy(project, "192.0.2.7") as client:
        token = join(client).json()["token"]
        body = json.dumps({"request_id": "a-request", "capacity": {}}).encode() + b" " * (8 << 20)
        headers = {"Authorization": f"Bearer {token}"}
        answers = [client.post("/api/v1/sync", content=body, headers=headers) for _ in range(3)]
        assert [a.status_code for a in answers] == [200] * 3


def test_one_address_does_not_take_all_connections(project: Server) -> None:
    """127.0.0.2 is this machine too, and no proxy by the configuration."""
    with ExitStack() as held:
        for _ in range(CONNECTIONS):
            held.enter_context(connected(project, "127.0.0.2"))
        assert hung_up(held.enter_context(connected(project, "127.0.0.2")))
        assert httpx.get(f"{project.url}/healthz", trust_env=False).is_success


def test_the_server_is_healthy_after_these_attacks(project: Server) -> None:
    def at_rest() -> bool:
        assert project.process is not None
        sockets = [c for c in _connections(project) if c == "ESTABLISHED"]
        return len(sockets) <= 1

    wait_for("its connections to be gone", at_rest)
    log = (project.folder.parent / "axiom-server.log").read_text()
    assert "Traceback" not in log
    assert "rate limit exceeded" in log
    assert httpx.get(f"{project.url}/healthz", trust_env=False).is_success


def _connections(project: Server) -> list[str]:
    assert project.process is not None
    return [
        c.status
        for c in psutil.Process(project.process.pid).net_connections("tcp")
        if c.laddr and c.laddr.port == project.port
    ]
