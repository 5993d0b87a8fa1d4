"""Limits the share of a serving process that public pages use, so that they do not slow syncs.

At most two pages are made at a time, on the event loop that syncs use too. After each page its
place stays empty for a while: even if many readers request pages without a pause, syncs have most
of the processor.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import Response

from axiom_server.web.refused import Refused

AT_ONCE = 2
REST = 2.0  # a place stays empty this many times as long as its page took: pages use a third
REST_SECONDS_MAX = 0.25  # a page that waited for a lock did not use the processor meanwhile
WAITING_MAX = 300  # requests; more are told to come back
RETRY_SECONDS = 5.0
KEPT_BYTES_MAX = 32 * 1024 * 1024

Endpoint = Callable[[Request], Awaitable[Response]]


class PageLimits:
    """The places for pages that are being made. One per serving process."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    def limited(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, waiting for a place. Raises Refused: 503, too many wait."""

        async def answer(request: Request) -> Response:
            async with self._place():
                return await endpoint(request)

        answer.__doc__ = endpoint.__doc__
        return answer

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._waiting >= WAITING_MAX:
            raise Refused(
                503, "Too many requests for pages", f"Try again after {RETRY_SECONDS:.0f} seconds.",
                RETRY_SECONDS,
            )  # fmt: skip
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            rest = min(REST * took, REST_SECONDS_MAX)
            asyncio.get_running_loop().call_later(rest, self._places.release)


class KeptFiles:
    """Files made of what does not change under their key; the least used go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> bytes | None:
        """A file of this key, if it is kept."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: str, content: bytes) -> None:
        """Keep a file, if it is not too large a part of what can be kept."""
        if len(content) > KEPT_BYTES_MAX // 8 or key in self._kept:
            return
        self._kept[key] = content
        self._bytes += len(content)
        while self._bytes > KEPT_BYTES_MAX:
            self._bytes -= len(self._kept.popitem(last=False)[1])
