"""Attacks over sockets: no connections, datagrams or listeners of any address family."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.conftest import NO_ERRNO, Attack

PAIR = (
    "a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x';"
    " a.setblocking(False); a.close(); b.close()"
)


@pytest.fixture
def listener() -> Iterator[tuple[str, int]]:
    """A real listener of the host that a task must not reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


def test_tcp_connect(attack: Attack, listener: tuple[str, int]) -> None:
    attack.repelled(f"socket.create_connection({listener!r}, 5)", PAIR)


def test_tcp_listen(attack: Attack) -> None:
    attack.repelled("socket.create_server(('127.0.0.1', 0))", PAIR)


def test_tcp_over_ipv6(attack: Attack) -> None:
    attack.repelled("socket.socket(socket.AF_INET6, socket.SOCK_STREAM).connect(('::1', 22))", PAIR)


def test_udp(attack: Attack) -> None:
    attack.repelled(
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))", PAIR
    )


def test_dns(attack: Attack) -> None:
    attack.repelled(
        "socket.getaddrinfo('example.org', 80)",
        "socket.inet_aton('127.0.0.1')",
        refusals=(socket.EAI_AGAIN, socket.EAI_NONAME, socket.EAI_FAIL, socket.EAI_SYSTEM),
    )


def test_netlink(attack: Attack) -> None:
    attack.repelled("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).bind((0, 0))", PAIR)


def test_raw_socket(attack: Attack) -> None:
    attack.repelled("socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", PAIR)


def test_packet_socket(attack: Attack) -> None:
    attack.repelled("socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)", PAIR)


def test_vsock(attack: Attack) -> None:
    attack.repelled("socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)", PAIR)


def test_abstract_unix_socket(attack: Attack) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind("\0axiom-test-of-abstract")
        server.listen()
        attack.repelled("socket.socket(socket.AF_UNIX).connect('\\0axiom-test-of-abstract')", PAIR)


def test_pathname_unix_socket(attack: Attack) -> None:
    """Such as the agent's own control socket."""
    path = attack.folder / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        attack.repelled(f"socket.socket(socket.AF_UNIX).connect({str(path)!r})", PAIR)


def test_unix_listener_in_own_folder(attack: Attack) -> None:
    attack.repelled("socket.socket(socket.AF_UNIX).bind('sock')", PAIR)


def test_datagram_socketpair_to_a_path(attack: Attack) -> None:
    """A datagram pair could send to any path in the file system, past Landlock."""
    path = attack.folder / "log.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.setblocking(False)
        attack.repelled(
            "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            f"a.sendto(b'x', {str(path)!r})",
            PAIR,
        )
        with pytest.raises(BlockingIOError):
            server.recv(1)


def test_sendto_an_address_on_a_stream_pair(attack: Attack) -> None:
    attack.repelled(
        f"a, b = socket.socketpair(); a.sendto(b'x', {str(Path('/run/log.sock'))!r})", PAIR
    )


def test_pass_descriptors_by_sendmsg(attack: Attack) -> None:
    attack.repelled(
        "a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [0])",
        PAIR + "; a, b = socket.socketpair(); a.send(b'x'); assert b.recvmsg(1)[0] == b'x'",
    )


def test_reconnect_a_pair(attack: Attack) -> None:
    attack.repelled("a, b = socket.socketpair(); a.connect('/run/systemd/notify')", PAIR)


def test_io_through_asyncio(attack: Attack) -> None:
    attack.repelled(
        "import asyncio; asyncio.run(asyncio.open_connection('127.0.0.1', 80))",
        "import asyncio; asyncio.run(asyncio.sleep(0))",
    )


def test_http(attack: Attack, listener: tuple[str, int]) -> None:
    attack.repelled(
        f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{listener[1]}', None, 5)",
        "import urllib.parse; urllib.parse.urlsplit('http://127.0.0.1')",
        refusals=(NO_ERRNO, 1, 13),
    )
