"""The agent's end of the process that fetches bundles: one process, only while it is of use."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import msgspec

from axiom_client.project.fetch_child import BundleReply, BundleRequest, FetchSettings

CHILD_SECONDS_MAX = 300.0  # for one bundle; its own limits end a slow download well before
LINGER_SECONDS = 20.0  # the next exchange may bring another bundle; its imports take half a second
LINE_BYTES_MAX = 4 * 1024 * 1024  # a line holds one manifest, made from at most 256 kB of TOML


class Fetcher:
    """Fetches bundles; exactly one ``on_reply`` follows for each ``fetch``."""

    def __init__(self, settings: FetchSettings, on_reply: Callable[[BundleReply], None]) -> None:
        self.settings = settings
        self.received_bytes = 0  # by processes that have answered
        self._on_reply = on_reply
        self._requests: list[BundleRequest] = []
        self._serving: asyncio.Task[None] | None = None
        self._more = asyncio.Event()

    def fetch(self, request: BundleRequest) -> None:
        """Fetch and verify one bundle; returns at once."""
        self._requests.append(request)
        self._more.set()
        self.prestart()

    def prestart(self) -> None:
        """Start the process ahead of the first request."""
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve(), name="fetch bundles")

    async def close(self) -> None:
        """Nothing of it lives afterwards."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)

    async def _serve(self) -> None:
        await self._one_process()
        while self._requests:
            await self._one_process()

    async def _one_process(self) -> None:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "axiom_client.project.fetch_child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
        )  # fmt: skip
        try:
            await self._talk(child)
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()

    async def _talk(self, child: asyncio.subprocess.Process) -> None:
        stdin, stdout = child.stdin, child.stdout
        assert stdin is not None  # both are pipes, see above
        assert stdout is not None
        stdin.write(msgspec.json.encode(self.settings) + b"\n")
        while True:
            while self._requests:
                reply = await self._ask(stdin, stdout, self._requests[0])
                del self._requests[0]
                self.received_bytes += reply.received_bytes
                self._on_reply(reply)
                if reply.outcome == "failed":
                    return  # the retry gets a fresh process, which reads its metadata anew
            self._more.clear()
            try:
                await asyncio.wait_for(self._more.wait(), LINGER_SECONDS)
            except TimeoutError:
                return

    async def _ask(
        self, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader, request: BundleRequest
    ) -> BundleReply:
        try:
            stdin.write(msgspec.json.encode(request) + b"\n")
            await stdin.drain()
            line = await asyncio.wait_for(stdout.readline(), CHILD_SECONDS_MAX)
            return msgspec.json.decode(line, type=BundleReply)
        except (TimeoutError, ConnectionError, ValueError, msgspec.DecodeError):
            return BundleReply(
                sha256=request.sha256, outcome="failed", problem="the fetching process broke off"
            )
