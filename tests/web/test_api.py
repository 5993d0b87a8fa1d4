"""The agent's HTTP client: the error for each fault of server or network."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from axiom_client.errors import (
    BadAddress,
    BadValue,
    HostRefused,
    NotAnAxiomServer,
    RequestRefused,
    ServerNotThere,
)
from axiom_client.project.address import check_url
from axiom_client.project.api import Api, Network, Overloaded, trust
from axiom_protocol.messages import Capacity, SyncRequest
from tests.support.small_project import TOKEN, SmallProject, served

REQUEST = SyncRequest(request_id="a-request-id", capacity=Capacity())


@pytest.fixture
def project(tmp_path: Path) -> SmallProject:
    return SmallProject(tmp_path / "project")


async def sync(url: str, token: str = TOKEN) -> Any:
    api = Api(url, Network(), token)
    try:
        return await api.sync(REQUEST)
    finally:
        await api.close()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_sync_is_answered(project: SmallProject) -> None:
    with served(project) as url:
        assert run(sync(url)).request_id == "a-request-id"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RequestRefused), (401, HostRefused), (403, HostRefused), (409, RequestRefused),
        (413, RequestRefused), (429, Overloaded), (500, ServerNotThere), (503, Overloaded),
    ],
)  # fmt: skip
def test_each_status_has_its_name(
    project: SmallProject, status: int, error: type[Exception]
) -> None:
    project.refuse = (status, "because")
    with served(project) as url, pytest.raises(error, match="because"):
        run(sync(url))


def test_token_that_is_not_known(project: SmallProject) -> None:
    with served(project) as url, pytest.raises(HostRefused):
        run(sync(url, "wrong"))


def test_no_server_at_the_address() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ServerNotThere, match=str(port)):
        run(sync(f"http://127.0.0.1:{port}"))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", NotAnAxiomServer),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", NotAnAxiomServer),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!", NotAnAxiomServer),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", NotAnAxiomServer),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", ServerNotThere),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ServerNotThere),
        (b"", ServerNotThere),
    ],
)  # fmt: skip
def test_answers_that_are_not_an_axiom_servers(answer: bytes, error: type[Exception]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def reply() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(error):
            run(sync(f"http://127.0.0.1:{listener.getsockname()[1]}"))
        thread.join()


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://project.example/", "https://project.example"),
        (" https://project.example:8443/axiom/ ", "https://project.example:8443/axiom"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_usable_addresses(url: str, clean: str) -> None:
    assert check_url(url) == clean


@pytest.mark.parametrize(
    "url",
    ["", "project", "ftp://x.example", "http://x.example", "http://10.0.0.1", "https://",
     "https://me:secret@x.example", "http://x.example:notaport", "http://localhost.example"],
)  # fmt: skip
def test_unusable_addresses(url: str) -> None:
    with pytest.raises(BadAddress):
        check_url(url)


def test_file_without_certificates(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for path in (empty, tmp_path / "absent.pem"):
        with pytest.raises(BadValue, match="certificates"):
            trust("https://x.example", str(path))
