"""A launchd job on macOS: one person's agent, or the machine's daemon.

launchd knows no exit code that means "do not start again": a job that ends with 0 stays down, any
other is started again after RESTART_SECONDS.
"""

from __future__ import annotations

import os
import plistlib
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from axiom_client.errors import ServiceProblem
from axiom_client.service import base
from axiom_client.service.base import RESTART_SECONDS, STOP_SECONDS, Runner, ServiceStatus, must

LABEL = "org.axiom.client"
_SYSTEM_FOLDER = "/Library/Application Support/axiom-client"


def job(scope: Literal["system", "user"], program: Path, logs: Path) -> dict[str, Any]:
    """The job as launchd.plist(5) wants it."""
    described: dict[str, Any] = {
        "Label": LABEL,
        "ProgramArguments": [str(program), "run", "--no-display"],
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": RESTART_SECONDS,
        "ExitTimeOut": STOP_SECONDS,
        "ProcessType": "Background",
        "LowPriorityIO": True,
        "LowPriorityBackgroundIO": True,
        "Nice": 10,
        "Umask": 0o077,
        "StandardOutPath": str(logs / "axiom-client.log"),
        "StandardErrorPath": str(logs / "axiom-client.log"),
    }
    if scope == "system":
        described |= {
            "UserName": "nobody",
            "EnvironmentVariables": {"AXIOM_CLIENT_DIR": _SYSTEM_FOLDER},
        }
    elif one_folder := os.environ.get("AXIOM_CLIENT_DIR"):
        described["EnvironmentVariables"] = {"AXIOM_CLIENT_DIR": one_folder}
    return described


class LaunchdService(Struct, kw_only=True):
    """The job's file and launchctl."""

    scope: Literal["system", "user"]
    program: Path
    home: Path
    uid: int = 0  # whose session it is; the system's domain needs none
    runner: Runner = base.run

    @property
    def file(self) -> Path:
        """Where the job's description goes."""
        if self.scope == "system":
            return Path("/Library/LaunchDaemons") / f"{LABEL}.plist"
        return self.home / "Library/LaunchAgents" / f"{LABEL}.plist"

    @property
    def logs(self) -> Path:
        """Where launchd puts what the agent prints."""
        return Path("/Library/Logs") if self.scope == "system" else self.home / "Library/Logs"

    def install(self) -> str:
        """Write the job and start it; a job of before is replaced."""
        self.runner(["launchctl", "bootout", self._target()])  # refused when there is none: fine
        base.write(self.file, plistlib.dumps(job(self.scope, self.program, self.logs)))
        must(self.runner, "launchctl", "enable", self._target())
        must(self.runner, "launchctl", "bootstrap", self._domain(), str(self.file))
        return f"installed {self.file}; it starts now and at every login or boot"

    def uninstall(self) -> str:
        """Stop the job and delete its file."""
        if not self.file.exists():
            raise ServiceProblem(f"there is no service to remove: {self.file} does not exist")
        self.runner(["launchctl", "bootout", self._target()])  # refused when it is not loaded: fine
        base.remove(self.file)
        return f"removed {self.file}; the agent's own folders are still there"

    def status(self) -> ServiceStatus:
        """What launchd says."""
        shown = self.runner(["launchctl", "print", self._target()])
        lines = [line.strip() for line in shown.stdout.splitlines()] if shown.code == 0 else []
        facts = dict(line.split(" = ", 1) for line in lines if " = " in line)
        return ServiceStatus(
            installed=self.file.exists(),
            running=facts.get("state") == "running",
            where=str(self.file),
            detail=facts.get("state", "not loaded"),
        )

    def restart(self) -> str:
        """Stop and start."""
        must(self.runner, "launchctl", "kickstart", "-k", self._target())
        return f"restarted {LABEL}"

    def _domain(self) -> str:
        return "system" if self.scope == "system" else f"gui/{self.uid}"

    def _target(self) -> str:
        return f"{self._domain()}/{LABEL}"
