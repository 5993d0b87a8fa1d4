"""Runs `axiom-server refresh-pages` in a process of its own, when there is something new."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import structlog

from axiom_server.store.database import Pool, row
from axiom_server.transfer.export_statistics import is_current

LOOK_SECONDS = 15.0  # between two looks whether there is anything new
RESULTS_SECONDS = 600.0  # new results alone are drawn this often; a review at once
RUN_SECONDS_MAX = 1800.0  # of one run; longer ones hang

log = structlog.get_logger()


@dataclass(kw_only=True)
class PageRefresh:
    """One per serving process; of several, the command's own lock lets one run work."""

    pool: Pool
    folder: Path
    _seen: tuple[int, int] = (0, 0)  # latest session and result at the last run
    _ran_at: float = field(default_factory=lambda: -RESULTS_SECONDS)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look and run while the block runs; a run under way is ended with it."""
        job = asyncio.create_task(self._run())
        try:
            yield
        finally:
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)  # first of all: agents are served before pages
            try:
                if await self._is_due():
                    await self._refresh()
            except (psycopg.OperationalError, OSError, TimeoutError) as error:
                log.warning("the pages were not refreshed", error=str(error).strip()[:500])
            except Exception:  # reported; the next look may find nothing wrong
                log.exception("the pages were not refreshed")

    async def _is_due(self) -> bool:
        async with self.pool.connection() as connection:
            found = await row(
                connection,
                """SELECT COALESCE((SELECT max(session_id) FROM sessions), 0),
                          COALESCE((SELECT max(task_id) FROM results), 0)""",
            )
        now, seen = (int(found[0]), int(found[1])), self._seen
        waited = time.monotonic() - self._ran_at >= RESULTS_SECONDS
        due = now[0] != seen[0] or (waited and now != seen)
        due = due or (now[0] > 0 and waited and not is_current(self.folder / "stats"))
        if due:
            self._seen, self._ran_at = now, time.monotonic()
        return due

    async def _refresh(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "axiom_server.cli.app", "--dir", str(self.folder),
            "refresh-pages", stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            _, error_output = await asyncio.wait_for(process.communicate(), RUN_SECONDS_MAX)
            if process.returncode:
                log.warning("the pages were not refreshed", error=error_output.decode()[-500:])
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await process.wait()
