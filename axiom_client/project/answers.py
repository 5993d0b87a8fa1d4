"""Reads a server's answer within limits, whatever it sends.

The largest answer of a correct server, 2,000 grants, is about 1 MB of JSON. An answer is
decompressed once, and only from gzip, which was asked for. Decoded Python objects take up to 20
times the memory of their JSON, so their number is limited too.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator

from axiom_client.project.slim_httpx import httpx

ANSWER_BYTES_MAX = 8 * 1024 * 1024  # decompressed
ANSWER_ITEMS_MAX = 500_000  # in lists and tables; correct answers have below 100,000
RETRY_AFTER_SECONDS_MAX = 3600.0  # a server that is busy for longer can send Retry-After again
ACCEPT_ENCODING = "gzip"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS  # zlib: expect a gzip header


class UnusableAnswer(Exception):
    """The answer is too large, or compressed in a way that the request did not allow."""


async def read_body(response: httpx.Response) -> bytes:
    """The decompressed body. Raises UnusableAnswer, and httpx's errors."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", ""):
        raise UnusableAnswer(f"Content-Encoding {encoding!r} was not asked for")
    pieces = response.aiter_raw()
    body = await (_gunzip(pieces) if encoding == "gzip" else _collect(pieces))
    if body.count(b",") + body.count(b"[") + body.count(b"{") > ANSWER_ITEMS_MAX:
        raise UnusableAnswer(f"more than {ANSWER_ITEMS_MAX} values")
    return body


async def _collect(pieces: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    async for piece in pieces:
        body += piece
        _check_length(body)
    return bytes(body)


async def _gunzip(pieces: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    decompressor = zlib.decompressobj(_GZIP_WINDOW)
    async for piece in pieces:
        try:
            body += decompressor.decompress(piece, ANSWER_BYTES_MAX + 1 - len(body))
        except zlib.error as error:
            raise UnusableAnswer(f"not gzip: {error}") from None
        _check_length(body)
        if decompressor.eof:
            break
    if not decompressor.eof:
        raise UnusableAnswer("the gzip body ends too early")
    return bytes(body)


def _check_length(body: bytearray) -> None:
    if len(body) > ANSWER_BYTES_MAX:
        raise UnusableAnswer(f"more than {ANSWER_BYTES_MAX} bytes")


def retry_after_seconds(header: str) -> float:
    """The wait of a Retry-After header, at most an hour; 0 if it is not a whole number."""
    if not re.fullmatch(r"[0-9]+", header, re.ASCII):
        return 0.0
    digits = header.lstrip("0")
    return (
        RETRY_AFTER_SECONDS_MAX if len(digits) > 9 else min(float(header), RETRY_AFTER_SECONDS_MAX)
    )
