"""Looks for releases of the agent, and tells the launcher that this version works.

Only an agent that a launcher started does so: nothing else would start another version.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable

import msgspec

from axiom_client.agent.journal import SCHEMA_VERSION
from axiom_client.config.schema import Config
from axiom_client.decide import events as e
from axiom_client.decide.update import describe, is_newer
from axiom_client.folders import Folders
from axiom_client.project.identity import Identity
from axiom_client.project.release_child import CheckReply, CheckSettings
from axiom_client.releases.folder import ReleaseFolder
from axiom_client.releases.link import LauncherLink
from axiom_client.system.child_environment import child_environment
from axiom_protocol import __version__

CHECK_SECONDS_MAX = 2 * 3600.0  # a download at 10 kB/s takes one

log = logging.getLogger("axiom_client")


class Updates:
    """Reports health once the server has answered; from then on it looks for releases."""

    def __init__(
        self,
        folders: Folders,
        identity: Callable[[], Identity],
        config: Callable[[], Config],
        emit: Callable[[e.Event], None],
    ) -> None:
        self._folder = ReleaseFolder(folders.releases)
        self._pinned_root = folders.bundles / "pinned.root.json"
        self._identity, self._config, self._emit = identity, config, emit
        self._link = LauncherLink()
        self._contacted = asyncio.Event()
        self._checking: asyncio.Task[None] | None = None
        self._logged = ""  # the last problem, to log each only once

    def start(self, on_launcher_end: Callable[[], None]) -> None:
        """Begin to wait for the server's first answer, and for the end of the launcher."""
        if self._link.launched:
            self._link.watch(on_launcher_end)
            self._checking = asyncio.create_task(self._check_regularly(), name="look for releases")

    async def close(self) -> None:
        """End the search."""
        self._link.unwatch()
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)

    def contacted(self) -> None:
        """The journal is open, the sandbox works, and the server has answered."""
        if not self._contacted.is_set():
            self._link.report_healthy(__version__)
            self._contacted.set()

    def described(self) -> list[str]:
        """What is staged or was undone, in words."""
        return describe(self._folder.record(), __version__)

    async def _check_regularly(self) -> None:
        await self._contacted.wait()
        while True:
            if self._config()["update.enabled"]:
                await self._check()
            await asyncio.sleep(self._config()["update.every"])

    async def _check(self) -> None:
        try:
            reply = await self._reply()
        except OSError as error:  # no process or descriptor is left
            reply = CheckReply(problem=f"the search for releases did not start: {error}")
        if reply.problem not in ("", self._logged):
            log.warning("no update: %s", reply.problem)
        self._logged = reply.problem
        if is_newer(reply.staged, __version__):
            self._emit(e.UpdateStaged(now=time.monotonic(), version=reply.staged))

    async def _reply(self) -> CheckReply:
        """The answer of a process that looks for a release and stages it."""
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "axiom_client.project.release_child",
            env=child_environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            line = msgspec.json.encode(self._settings()) + b"\n"
            out, _ = await asyncio.wait_for(child.communicate(line), CHECK_SECONDS_MAX)
            return msgspec.json.decode(out, type=CheckReply)
        except (TimeoutError, msgspec.DecodeError):
            return CheckReply(problem="the process that looks for releases ended early")
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()

    def _settings(self) -> CheckSettings:
        config = self._config()
        return CheckSettings(
            folder=os.fspath(self._folder.folder),
            pinned_root=os.fspath(self._pinned_root),
            url=self._identity().url,
            running=__version__,
            journal_format=SCHEMA_VERSION,
            proxy=config["network.proxy"],
            ca_bundle=config["network.ca_bundle"],
        )
