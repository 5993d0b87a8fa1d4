"""The agent's end of the process that fetches bundles: one at a time, only while something is wanted."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import msgspec

from axiom_client.project.fetch_child import Have, Place, Want

CHILD_SECONDS_MAX = 300.0  # for one bundle; its own limits end a slow download well before


class Fetcher:
    """Fetches bundles; exactly one ``on_have`` follows for each ``fetch``."""

    def __init__(self, place: Place, on_have: Callable[[Have], None]) -> None:
        self._place = place
        self._on_have = on_have
        self._wanted: list[Want] = []
        self._child: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._more = asyncio.Event()
        self._released = False

    def fetch(self, want: Want) -> None:
        """Fetch and verify one bundle; returns at once."""
        self._wanted.append(want)
        self.prestart()
        self._more.set()

    def prestart(self) -> None:
        """Start the child ahead of the first want: its imports take half a second."""
        self._released = False
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve(), name="fetch bundles")

    def release(self) -> None:
        """Let the child end once nothing is wanted."""
        self._released = True
        self._more.set()

    async def close(self) -> None:
        """Nothing of it lives afterwards."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self) -> None:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "axiom_client.project.fetch_child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=4 * 1024 * 1024,  # a line holds one manifest, at most 256 kB of TOML
        )  # fmt: skip
        try:
            await self._answer_all(child)
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()

    async def _answer_all(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdin is not None and child.stdout is not None  # both are pipes, see above
        child.stdin.write(msgspec.json.encode(self._place) + b"\n")
        while True:
            while self._wanted:
                want = self._wanted[0]
                have = await self._one(child.stdin, child.stdout, want)
                self._wanted.pop(0)
                self._on_have(have)
            if self._released:
                return
            self._more.clear()
            await self._more.wait()

    async def _one(
        self, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader, want: Want
    ) -> Have:
        try:
            stdin.write(msgspec.json.encode(want) + b"\n")
            await stdin.drain()
            line = await asyncio.wait_for(stdout.readline(), CHILD_SECONDS_MAX)
            return msgspec.json.decode(line, type=Have)
        except (TimeoutError, ConnectionError, msgspec.DecodeError):
            self._released = True  # this child is of no more use; the retry gets a fresh one
            return Have(
                sha256=want.sha256, outcome="failed", problem="the fetching process broke off"
            )
