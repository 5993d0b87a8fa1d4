"""A busy serving process accepts connections faster than one in each turn of its loop."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from axiom_server.web.serve import handles, listen

CLIENTS = 8
TURNS = 3  # of the loop

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="uvloop")


def test_waiting_connections_are_accepted_together() -> None:
    uvloop = pytest.importorskip("uvloop")
    accepted = 0

    class Counting(asyncio.Protocol):
        def connection_made(self, _transport: asyncio.BaseTransport) -> None:
            nonlocal accepted
            accepted += 1

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        listener = listen("127.0.0.1", 0)
        servers = [await loop.create_server(Counting, sock=s) for s in handles(listener)]
        clients = [socket.create_connection(listener.getsockname()) for _ in range(CLIENTS)]
        for _ in range(TURNS):
            await asyncio.sleep(0)
        for client in clients:
            client.close()
        for server in servers:
            server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
    assert accepted == CLIENTS
