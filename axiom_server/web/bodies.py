"""Read, decompress and decode request bodies within memory limits.

A body is decompressed only when it is complete, so a body that arrives slowly or never ends costs
only the bytes that were sent. All bodies of the process share one budget, which counts received and
decompressed bytes until the request is answered. One address may use only a part of it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from axiom_protocol.messages import BODY_BYTES_MAX
from axiom_server.web.rate_limits import network_of
from axiom_server.web.refused import Refused

GZIP_WINDOW = 16 + zlib.MAX_WBITS  # zlib: expect a gzip header
UNPACK_BYTES = 1024 * 1024  # decompressed at a time, so that the budget is checked in between
BUDGET_BYTES = 4 * BODY_BYTES_MAX  # for all bodies together; typical ones are a few kB
#: Requests without a token (joining, forms) have a budget of their own, so that they cannot use up
#: that of the hosts.
STRANGERS_BUDGET_BYTES = 16 * 1024 * 1024
ADDRESS_SHARE = 2  # one address may use half of the budget
RETRY_SECONDS = 5.0  # Retry-After when the budget is used up
#: Limits for one message, because a decoded number takes 32 bytes and a list 64, however short they
#: are in JSON. Numbers with all their digits fill BODY_BYTES_MAX before they are so many.
COMMAS_MAX = 2_000_000
CONTAINERS_MAX = 500_000
T = TypeVar("T")


@dataclass(kw_only=True)
class BodyBudget:
    """Counts the bytes of bodies that the process holds at present."""

    total_bytes: int = BUDGET_BYTES
    _used: int = 0
    _by_address: Counter[str] = field(default_factory=Counter)

    def take(self, address: str, count: int) -> None:
        """Use some of the budget. Raises Refused: 503, try again later."""
        share = self.total_bytes // ADDRESS_SHARE
        full = self._used + count > self.total_bytes
        if full or self._by_address[address] + count > share:
            who = "The server" if full else "The server, for this address,"
            raise Refused(
                503, f"{who} holds as many requests as it can",
                f"Try again after {RETRY_SECONDS:.0f} seconds.", RETRY_SECONDS,
            )  # fmt: skip
        self._used += count
        self._by_address[address] += count

    def give_back(self, address: str, count: int) -> None:
        """Return what was taken."""
        self._used -= count
        self._by_address[address] -= count
        if not self._by_address[address]:
            del self._by_address[address]


@dataclass(kw_only=True)
class _Share:
    """The part of the budget that one request has taken."""

    budget: BodyBudget
    address: str
    bytes_max: int
    taken: int = 0

    def take(self, count: int) -> None:
        self.budget.take(self.address, count)
        self.taken += count

    def give_back(self, count: int) -> None:
        self.budget.give_back(self.address, count)
        self.taken -= count


@asynccontextmanager
async def body(
    request: Request, budget: BodyBudget, bytes_max: int = BODY_BYTES_MAX
) -> AsyncIterator[bytes]:
    """The decompressed body of a request; its part of the budget is returned after the block.

    bytes_max  largest size, received and decompressed

    Raises Refused: 400 broken, 413 too large, 415 unknown encoding, 503 no budget left.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", ""):
        raise Refused(415, f"Content-Encoding {encoding!r} is not understood"[:200], "Use gzip.")
    share = _Share(budget=budget, address=network_of(request.scope), bytes_max=bytes_max)
    try:
        received = await _receive(request, share)
        yield _unpack(received, share) if encoding == "gzip" else bytes(received)
    finally:
        share.give_back(share.taken)


async def _receive(request: Request, share: _Share) -> bytearray:
    received = bytearray()
    try:
        async for chunk in request.stream():
            if len(received) + len(chunk) > share.bytes_max:
                raise _too_large(share.bytes_max)
            share.take(len(chunk))
            received += chunk
    except ClientDisconnect:
        raise Refused(400, "The body ends too early") from None
    return received


def _unpack(packed: bytearray, share: _Share) -> bytes:
    """Decompress one gzip member; afterwards ``packed`` is emptied."""
    unpacker = zlib.decompressobj(GZIP_WINDOW)
    unpacked = bytearray()
    rest: bytes | bytearray = packed
    try:
        while rest and not unpacker.eof:
            part = unpacker.decompress(rest, UNPACK_BYTES)
            if len(unpacked) + len(part) > share.bytes_max:
                raise _too_large(share.bytes_max)
            share.take(len(part))
            unpacked += part
            rest = unpacker.unconsumed_tail
    except zlib.error:
        raise Refused(400, "The body is not gzip") from None
    if not unpacker.eof:
        raise Refused(400, "The gzip body ends too early")
    share.give_back(len(packed))
    packed.clear()
    return bytes(unpacked)


def _too_large(bytes_max: int) -> Refused:
    return Refused(413, "The body is too large", f"At most {bytes_max} bytes unpacked.")


def decoder(message_type: type[T]) -> Callable[[bytes], T]:
    """A decoder of messages that accepts 4.0 as a whole number, as JSON Schema does.

    Only a message with such a number is decoded a second time, by msgspec's lax rules. This takes
    linear time, without a loop in Python.
    """
    strict = msgspec.json.Decoder(message_type)
    lax = msgspec.json.Decoder(message_type, strict=False)

    def decode_message(raw: bytes) -> T:
        try:
            return strict.decode(raw)
        except msgspec.ValidationError as error:
            if "Expected `int`, got `float`" not in str(error):
                raise
        return lax.decode(raw)

    return decode_message


def decode(decode_message: Callable[[bytes], T], raw: bytes) -> T:
    """Decode a message. Raises Refused with the field that is wrong."""
    containers = raw.count(b"[") + raw.count(b"{")
    if raw.count(b",") > COMMAS_MAX or containers > CONTAINERS_MAX:
        raise Refused(
            413, "The message holds too many values",
            f"At most {COMMAS_MAX} values and {CONTAINERS_MAX} lists and tables.",
        )  # fmt: skip
    try:
        return decode_message(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "The message is not understood", str(error)) from None
