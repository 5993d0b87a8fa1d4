"""``axiom-client run``: checks the sandbox, starts the log and the display, runs the agent."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from axiom_client.agent.run_options import RunOptions
from axiom_client.config.schema import Config
from axiom_client.errors import SandboxMissing
from axiom_client.folders import Folders
from axiom_client.project.identity import Identity
from axiom_client.releases.link import VARIABLE
from axiom_client.releases.supported import why_unsupported
from axiom_client.sandbox.selftest import SelfTest
from axiom_client.system.child_environment import child_environment
from axiom_client.system.child_lifetime import end_with_parent

if TYPE_CHECKING:
    from axiom_client.agent.loop import Agent

LOG_BYTES_MAX = 1_000_000  # about 10,000 lines: weeks on a host with few tasks
LOG_FILES = 3


def become_launcher(config: Config, words: Sequence[str]) -> None:
    """Where the agent updates itself, become its launcher, which runs this command again.

    words   the command's own, after ``run``
    """
    if not config["update.enabled"] or VARIABLE in os.environ:
        return
    if why := why_unsupported():
        print(f"axiom-client: it does not update itself: {why}", file=sys.stderr)
        return
    if sys.platform != "win32":
        from axiom_client.releases.posix_launcher import command

        line = command(config["update.trial"], words)
        os.execve(line[0], line, child_environment())


def run_agent(
    folders: Folders, config: Config, identity: Identity, options: RunOptions, *, display: bool
) -> str:
    """Run the agent to its end; returns why it ended. Raises AxiomError."""
    if VARIABLE in os.environ:
        end_with_parent()
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
        console.setFormatter(_console_format())
        log.addHandler(console)


def _console_format() -> logging.Formatter:
    from axiom_client.service.journald import JournalFormatter, is_journal

    if is_journal(sys.stdout.fileno()):
        return JournalFormatter()
    return logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
