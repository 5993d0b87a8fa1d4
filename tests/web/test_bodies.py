"""Request bodies: limited in bytes and values, and whole numbers written as JSON allows."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import pytest
from starlette.requests import Request

from axiom_protocol.messages import SyncRequest
from axiom_server.web.bodies import BodyBudget, body, decode, decoder
from axiom_server.web.refused import Refused

SYNC = b'{"request_id":"a-request","protocol_version":%s,"capacity":{"cpu_slots":%s}}'


def request(parts: list[bytes], encoding: str = "", address: str = "192.0.2.1") -> Request:
    """A request whose body comes in these parts."""
    waiting = list(parts)

    async def receive() -> dict[str, Any]:
        part = waiting.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    headers = [(b"content-encoding", encoding.encode())] if encoding else []
    scope = {"type": "http", "headers": headers, "client": (address, 1)}
    return Request(scope, receive)


def read(request: Request, budget: BodyBudget, bytes_max: int = 10_000) -> bytes:
    async def inside() -> bytes:
        async with body(request, budget, bytes_max) as raw:
            return raw

    return asyncio.run(inside())


@pytest.mark.parametrize("number", [b"1", b"1.0", b"1e0"])
def test_a_whole_number_may_be_written_with_a_point(number: bytes) -> None:
    sync = decode(decoder(SyncRequest), SYNC % (number, number))
    assert (sync.protocol_version, sync.capacity.cpu_slots) == (1, 1)


@pytest.mark.parametrize("number", [b'"1"', b"1.5", b"true", b"null"])
def test_nothing_else_is_a_whole_number(number: bytes) -> None:
    with pytest.raises(Refused) as refused:
        decode(decoder(SyncRequest), SYNC % (b"1", number))
    assert refused.value.problem.status == 400


@pytest.mark.parametrize("filler", [b"0,", b"1.0,", b"[],", b"{},"])
def test_a_message_of_too_many_values_is_not_decoded(filler: bytes) -> None:
    def never(raw: bytes) -> None:
        raise AssertionError("decoded")

    with pytest.raises(Refused) as refused:
        decode(never, b'{"x":[' + filler * (30_000_000 // len(filler)) + b"0]}")
    assert refused.value.problem.status == 413


def test_a_body_is_decompressed_within_its_limits() -> None:
    budget = BodyBudget()
    packed = gzip.compress(b"a" * 9_999)
    assert read(request([packed[:10], packed[10:]], "gzip"), budget) == b"a" * 9_999
    for parts, encoding, status in (
        ([gzip.compress(b"a" * 10_001)], "gzip", 413),
        ([b"a" * 10_001], "", 413),
        ([packed[:-9]], "gzip", 400),
        ([b"not gzip"], "gzip", 400),
        ([packed], "br", 415),
    ):
        with pytest.raises(Refused) as refused:
            read(request(parts, encoding), budget)
        assert refused.value.problem.status == status
    assert budget == BodyBudget()  # all of it was given back


def test_a_body_is_decompressed_only_when_it_is_complete() -> None:
    """An unfinished body uses only the bytes sent, not its decompressed size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(b" " * 10_000_000) + packer.flush(zlib.Z_SYNC_FLUSH)
    budget = BodyBudget()

    async def inside() -> int:
        gone = asyncio.Event()
        parts = [bomb]

        async def receive() -> dict[str, Any]:
            if not parts:
                gone.set()
                await asyncio.Event().wait()
            return {"type": "http.request", "body": parts.pop(), "more_body": True}

        scope = {"type": "http", "headers": [(b"content-encoding", b"gzip")], "client": ("a", 1)}

        async def hold() -> None:
            async with body(Request(scope, receive), budget):
                raise AssertionError("complete")

        holding = asyncio.create_task(hold())
        await gone.wait()
        held = budget._used
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        return held

    assert asyncio.run(inside()) == len(bomb)
    assert budget == BodyBudget()


def test_all_bodies_together_have_a_budget_and_one_address_a_part_of_it() -> None:
    budget = BodyBudget(total_bytes=1000)

    async def inside() -> list[Refused]:
        refused = []
        async with body(request([b"a" * 450]), budget):
            for size, address in ((100, "192.0.2.1"), (501, "192.0.2.2"), (551, "192.0.2.3")):
                with pytest.raises(Refused) as error:
                    async with body(request([b"a" * size], address=address), budget):
                        pass
                refused.append(error.value)
            async with body(request([b"a" * 500], address="192.0.2.4"), budget):
                pass
        return refused

    refused = asyncio.run(inside())
    assert [one.problem.status for one in refused] == [503] * 3
    assert all(int(one.headers["retry-after"]) > 0 for one in refused)
    assert budget == BodyBudget(total_bytes=1000)
