"""``axiom-client run``: checks the sandbox, starts the log and the display, runs the agent."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import sys
from typing import TYPE_CHECKING

from axiom_client.agent.run_options import RunOptions
from axiom_client.config.schema import Config
from axiom_client.errors import SandboxMissing
from axiom_client.folders import Folders
from axiom_client.project.identity import Identity
from axiom_client.sandbox.selftest import SelfTest

if TYPE_CHECKING:
    from axiom_client.agent.loop import Agent

LOG_BYTES_MAX = 1_000_000  # about 10,000 lines: weeks on a host with few tasks
LOG_FILES = 3


def run_agent(
    folders: Folders, config: Config, identity: Identity, options: RunOptions, *, display: bool
) -> str:
    """Run the agent to its end; returns why it ended. Raises AxiomError."""
    self_test = SelfTest()
    from axiom_client.agent.loop import Agent  # takes 0.25 s, while the self-test runs

    report = self_test.report()
    if not report.ok:
        raise SandboxMissing(f"no task is run here: {report.reason}; see: axiom-client doctor")
    folders.make()
    _start_log(folders, on_console=not display)
    _watch_children_without_threads()
    agent = Agent(folders, config, identity, options)
    return asyncio.run(_with_display(agent) if display else agent.run())


def _watch_children_without_threads() -> None:
    """Use pidfds to wait for children. Python 3.11 uses a thread for each; 3.12 uses pidfds."""
    if sys.platform == "linux" and sys.version_info < (3, 12):
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())


async def _with_display(agent: Agent) -> str:
    from axiom_client.cli.display import show_live

    showing = asyncio.create_task(show_live(agent.snapshot))
    try:
        return await agent.run()
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


def _start_log(folders: Folders, *, on_console: bool) -> None:
    logging.raiseExceptions = False  # else a full disk causes an error message for each line
    log = logging.getLogger("axiom_client")
    log.setLevel(logging.INFO)
    kept = logging.handlers.RotatingFileHandler(
        folders.log_file, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES, delay=True
    )
    kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    log.addHandler(kept)
    if on_console:
        console = logging.StreamHandler(sys.stdout)
        console.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(console)
