"""The address that ``serve`` prints can be used as it is."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest

from tests.support import programs
from tests.support.processes import wait_for
from tests.support.programs import Program


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).is_success
    except httpx.TransportError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_address_is_printed_as_a_usable_url(tmp_path: Path, agent: Program) -> None:
    server = programs.server(tmp_path)
    port = programs.free_port()
    server.start("serve", "--host", "::1", "--port", str(port))
    try:
        wait_for("the address", lambda: "serving" in printed(tmp_path))
        line = next(text for text in printed(tmp_path).splitlines() if "serving" in text)
        url = line.split()[-1]
        assert url == f"http://[::1]:{port}"
        wait_for("the server to answer", lambda: answers(url))
        assert "attached" in agent.run("attach", url)
    finally:
        server.stop()


def printed(folder: Path) -> str:
    return (folder / "axiom-server.log").read_text()
