"""The agent in wine, with tasks in a job object alone: ``python -m tests.wine.agent URL``.

wine has no AppContainers, so the agent itself would refuse to run a task. Here that check and the
container are left out; all else is the agent as it is. It is called without its command line,
whose library needs a DLL that wine lacks.
"""

from __future__ import annotations

import asyncio
import sys

from axiom_client.agent.attach import attach
from axiom_client.agent.run_options import RunOptions
from axiom_client.cli import run
from axiom_client.config.schema import load_config
from axiom_client.folders import find_folders
from axiom_client.project.api import Network
from axiom_client.run.windows_task_process import WindowsProcess
from axiom_client.sandbox import mode, windows
from axiom_client.sandbox.mode import Mode
from axiom_client.sandbox.selftest import SandboxReport


class _NoSelfTest:
    def report(self) -> SandboxReport:
        return SandboxReport(mode="appcontainer", ok=True)


def main(url: str) -> None:
    """Join the project, and run until it has no more work."""
    mode.choose = lambda: Mode(mode="appcontainer")
    run.SelfTest = _NoSelfTest  # type: ignore[assignment, misc]
    WindowsProcess.module = "tests.wine.child"
    WindowsProcess._container = lambda self, attributes: None  # type: ignore[method-assign]
    WindowsProcess._job = lambda self: windows.job_attributes(self._policy)  # type: ignore[method-assign]
    folders = find_folders()
    network = Network(proxy="", ca_bundle="")
    identity = asyncio.run(
        attach(folders, url, network, account_key="", user="zoë", host_name="", fingerprint=None)
    )
    print(f"attached to {identity.project} as host {identity.host_id}")
    options = RunOptions(until_idle=True, seconds=120)
    config = load_config(folders.config_file)
    print(f"ended: {run.run_agent(folders, config, identity, options, display=False)}")


if __name__ == "__main__":
    main(sys.argv[1])
