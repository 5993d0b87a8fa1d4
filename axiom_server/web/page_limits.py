"""How much of a serving process public pages may use, so that they do not slow hosts' syncs.

Pages are made two at a time, on the event loop and the connections that syncs use too. A place is
free again only some time after its page was made: were readers without number to ask without a
pause, syncs would still have most of the processor, and all but two connections.
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
REST = 2.0  # times as long as a page took to make, its place is left empty: a third is pages'
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
            raise Refused(503, "Too many pages are asked for", "Come back in some seconds.",
                          RETRY_SECONDS)  # fmt: skip
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
