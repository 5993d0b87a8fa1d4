"""A Windows service: how it is installed, and how it keeps the agent, its child, alive.

Nothing here needs pywin32: ``windows_service.py`` is the part that does. What the service manager
is asked for goes through ``ControlManager``, of which that module has the real one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from axiom_client.errors import ServiceProblem
from axiom_client.service.base import NAME, STOP_SECONDS, ServiceStatus

DISPLAY_NAME = "Axiom volunteer computing agent"
DESCRIPTION = "Runs confined experiments on idle cores and GPUs."
#: Milliseconds before the first, second and every later restart; counted anew after a day.
RESTART_DELAYS_MS = (30_000, 120_000, 600_000)
RESET_COUNT_SECONDS = 86_400
#: Exit codes after which a start would end the same way; systemd's unit has the same list.
FINAL_EXIT_CODES = frozenset({0, 2, 3, 4, 6, 11, 14, 16, 17, 21})
_POLL_MS = 1000  # the stop event and the child are looked at this often


class ControlManager(Protocol):
    """What is needed of Windows' service manager. Raises OSError when it refuses."""

    def create(self, name: str, display: str, description: str, command: str) -> None:
        """Register a service that starts with the machine, with the recovery actions above."""

    def delete(self, name: str) -> None:
        """Stop it and take it away."""

    def query(self, name: str) -> str | None:
        """Its state, such as "running" or "stopped"; None: there is no such service."""

    def start(self, name: str) -> None:
        """Start it."""

    def stop(self, name: str) -> None:
        """Stop it and wait until it is stopped."""


def data_folder(environment: Mapping[str, str] | None = None) -> Path:
    """The machine's folder for the agent: %ProgramData%\\axiom-client."""
    environment = os.environ if environment is None else environment
    return Path(environment.get("PROGRAMDATA", r"C:\ProgramData")) / NAME


def service_command(python: Path) -> str:
    """What the service manager starts."""
    return f'"{python}" -P -m axiom_client.service.windows_service'


def agent_command(python: Path) -> list[str]:
    """What the service starts."""
    return [str(python), "-P", "-m", "axiom_client", "run", "--no-display"]


class WindowsService(Struct, kw_only=True):
    """The entry in the service manager's database."""

    manager: ControlManager
    python: Path = Path(sys.executable)

    def install(self) -> str:
        """Register and start."""
        try:
            self.manager.create(NAME, DISPLAY_NAME, DESCRIPTION, service_command(self.python))
            self.manager.start(NAME)
        except OSError as error:
            raise _problem("install", error) from None
        return f"installed the service {NAME}; its folder is {data_folder()}"

    def uninstall(self) -> str:
        """Stop and unregister."""
        if self.manager.query(NAME) is None:
            raise ServiceProblem(f"there is no service {NAME} to remove")
        try:
            self.manager.delete(NAME)
        except OSError as error:
            raise _problem("remove", error) from None
        return f"removed the service {NAME}; {data_folder()} is still there"

    def status(self) -> ServiceStatus:
        """What the service manager says."""
        state = self.manager.query(NAME)
        return ServiceStatus(
            installed=state is not None,
            running=state == "running",
            where=NAME,
            detail=state or "not installed",
        )

    def restart(self) -> str:
        """Stop and start."""
        try:
            self.manager.stop(NAME)
            self.manager.start(NAME)
        except OSError as error:
            raise _problem("restart", error) from None
        return f"restarted the service {NAME}"


def _problem(doing: str, error: OSError) -> ServiceProblem:
    return ServiceProblem(
        f"Windows would not {doing} the service: {error.strerror or error}; "
        "run this command as administrator"
    )


class Guardian(Struct, kw_only=True):
    """Starts the agent, waits for it or for the order to stop, and says how it ended."""

    command: list[str]
    folder: Path
    wait_for_stop: Callable[[int], bool]  # milliseconds -> whether to stop
    tell: Callable[[str], None]  # a line for the Event Log

    def run(self) -> int:
        """Until the agent ends or is told to; its exit code. 0 when it was told to."""
        self.folder.mkdir(parents=True, exist_ok=True)
        agent = subprocess.Popen(
            self.command,
            env={**os.environ, "AXIOM_CLIENT_DIR": str(self.folder)},
            stdin=subprocess.DEVNULL,
            creationflags=_NEW_GROUP,
        )
        self.tell(f"the agent runs as process {agent.pid}; its files are in {self.folder}")
        while agent.poll() is None:
            if self.wait_for_stop(_POLL_MS):
                return self._stop(agent)
        self.tell(f"the agent ended with code {agent.returncode}")
        return agent.returncode

    def _stop(self, agent: subprocess.Popen[bytes]) -> int:
        agent.send_signal(_POLITE_SIGNAL)
        try:
            agent.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()
            self.tell(f"the agent did not stop in {STOP_SECONDS} s and was ended")
            return 0
        self.tell("the agent stopped")
        return 0


def should_restart(exit_code: int) -> bool:
    """Whether starting the agent again may help."""
    return exit_code not in FINAL_EXIT_CODES


# Only a process group of its own can be sent Ctrl+Break, which is Windows' polite signal.
if sys.platform == "win32":
    _NEW_GROUP, _POLITE_SIGNAL = subprocess.CREATE_NEW_PROCESS_GROUP, signal.CTRL_BREAK_EVENT
else:
    _NEW_GROUP, _POLITE_SIGNAL = 0, signal.SIGTERM
