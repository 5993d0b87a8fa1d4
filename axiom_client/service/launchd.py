"""The agent as a launchd job on macOS: a user's agent, or a system daemon.

launchd cannot be told which exit codes forbid a restart: a job that ends with 0 is not started
again, one that ends with any other code is, after RESTART_SECONDS.
"""

from __future__ import annotations

import plistlib
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from axiom_client.errors import ServiceProblem
from axiom_client.folders import one_folder
from axiom_client.service import base
from axiom_client.service.base import (
    RESTART_SECONDS,
    STOP_SECONDS,
    Runner,
    ServiceStatus,
    run_checked,
)

LABEL = "org.axiom.client"
_SYSTEM_FOLDER = "/Library/Application Support/axiom-client"


def job(scope: Literal["system", "user"], program: Path, logs: Path) -> dict[str, Any]:
    """The job's description, with the keys of launchd.plist(5)."""
    keys: dict[str, Any] = {
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
        keys |= {
            "UserName": "nobody",
            "EnvironmentVariables": {"AXIOM_CLIENT_DIR": _SYSTEM_FOLDER},
        }
    elif folder := one_folder():
        keys["EnvironmentVariables"] = {"AXIOM_CLIENT_DIR": str(folder)}
    return keys


class LaunchdService(Struct, kw_only=True):
    """Controls the job through its file and launchctl."""

    scope: Literal["system", "user"]
    program: Path
    home: Path
    uid: int = 0  # the user whose session runs the job; not used for the system
    runner: Runner = base.run

    @property
    def file(self) -> Path:
        """The file with the job's description."""
        if self.scope == "system":
            return Path("/Library/LaunchDaemons") / f"{LABEL}.plist"
        return self.home / "Library/LaunchAgents" / f"{LABEL}.plist"

    @property
    def logs(self) -> Path:
        """The folder for what the agent prints."""
        return Path("/Library/Logs") if self.scope == "system" else self.home / "Library/Logs"

    def install(self) -> str:
        """Write the job's file and start it; an earlier job is replaced."""
        self.runner(["launchctl", "bootout", self._target()])  # may fail: there may be none
        base.write(self.file, plistlib.dumps(job(self.scope, self.program, self.logs)))
        run_checked(self.runner, "launchctl", "enable", self._target())
        run_checked(self.runner, "launchctl", "bootstrap", self._domain(), str(self.file))
        return f"installed {self.file}; it starts now and at every login or boot"

    def uninstall(self) -> str:
        """Stop the job and delete its file."""
        if not self.file.exists():
            raise ServiceProblem(f"there is no service to remove: {self.file} does not exist")
        self.runner(["launchctl", "bootout", self._target()])  # may fail: it may not be loaded
        base.remove(self.file)
        return f"removed {self.file}; the agent's own folders are still there"

    def status(self) -> ServiceStatus:
        """The job's state as launchd reports it."""
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
        """Stop the job and start it again."""
        run_checked(self.runner, "launchctl", "kickstart", "-k", self._target())
        return f"restarted {LABEL}"

    def _domain(self) -> str:
        return "system" if self.scope == "system" else f"gui/{self.uid}"

    def _target(self) -> str:
        return f"{self._domain()}/{LABEL}"
