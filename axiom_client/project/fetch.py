"""The agent's side of the process that downloads bundles and runs only while it is needed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import msgspec

from axiom_client.project.fetch_child import BundleReply, BundleRequest, FetchSettings
from axiom_client.system.child_environment import child_environment

CHILD_SECONDS_MAX = 300.0  # for one bundle; a slow download is ended earlier by its own limits
LINGER_SECONDS = (
    20.0  # the next sync may need another bundle; starting a process takes half a second
)
LINE_BYTES_MAX = 4 * 1024 * 1024  # a line contains one manifest, made from at most 256 kB of TOML


class Fetcher:
    """Downloads bundles; exactly one call of ``on_reply`` follows each ``fetch``."""

    def __init__(self, settings: FetchSettings, on_reply: Callable[[BundleReply], None]) -> None:
        self.settings = settings
        self.received_bytes = 0  # as reported by the processes
        self._on_reply = on_reply
        self._requests: list[BundleRequest] = []
        self._serving: asyncio.Task[None] | None = None
        self._more = asyncio.Event()

    def fetch(self, request: BundleRequest) -> None:
        """Download and verify one bundle; returns at once."""
        self._requests.append(request)
        self._more.set()
        self.prestart()

    def prestart(self) -> None:
        """Start the process before the first request."""
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve(), name="fetch bundles")

    async def close(self) -> None:
        """End the process."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)

    async def _serve(self) -> None:
        await self._run_child()
        while self._requests:
            await self._run_child()

    async def _run_child(self) -> None:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "axiom_client.project.fetch_child",
            env=child_environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
        )  # fmt: skip
        try:
            await self._serve_requests(child)
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()

    async def _serve_requests(self, child: asyncio.subprocess.Process) -> None:
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
                    return  # the retry gets a new process, which reads its metadata again
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
                sha256=request.sha256, outcome="failed", problem="the download process ended early"
            )
