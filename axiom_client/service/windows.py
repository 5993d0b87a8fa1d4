"""The agent as a Windows service: how it is installed, and how it runs the agent as its child.

Nothing here needs pywin32. ``windows_service.py`` does, and holds the implementation of
``ControlManager``, through which the Windows service manager is called.
"""

from __future__ import annotations

import contextlib
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
from axiom_client.system.child_environment import child_environment

DISPLAY_NAME = "Axiom volunteer computing agent"
DESCRIPTION = "Runs confined experiments on idle cores and GPUs."
#: Milliseconds before the first, second and every later restart; the count restarts after a day.
RESTART_DELAYS_MS = (30_000, 120_000, 600_000)
RESET_COUNT_SECONDS = 86_400
#: Exit codes after which a restart would not help; the systemd unit has the same list.
FINAL_EXIT_CODES = frozenset({0, 2, 3, 4, 6, 11, 14, 16, 17, 21})
_ASK_SECONDS = 20.0  # the command imports Python and waits up to 5 s for an answer
_POLL_MS = 1000  # between two checks of the stop event and the child


class ControlManager(Protocol):
    """The part of the Windows service manager that is used. Methods raise OSError."""

    def create(self, name: str, display: str, description: str, command: str) -> None:
        """Register a service that starts with Windows and is restarted by RESTART_DELAYS_MS."""

    def delete(self, name: str) -> None:
        """Stop and unregister a service."""

    def query(self, name: str) -> str | None:
        """A service's state, such as "running" or "stopped"; None: there is no such service."""

    def start(self, name: str) -> None:
        """Start a service."""

    def stop(self, name: str) -> None:
        """Stop a service and wait until it has stopped."""


def data_folder(environment: Mapping[str, str] | None = None) -> Path:
    """The service's folder for the agent: %ProgramData%\\axiom-client."""
    environment = os.environ if environment is None else environment
    return Path(environment.get("PROGRAMDATA", r"C:\ProgramData")) / NAME


def service_command(python: Path) -> str:
    """The command that the service manager starts."""
    return f'"{python}" -P -m axiom_client.service.windows_service'


def agent_command(python: Path) -> list[str]:
    """The command that the service starts: the agent."""
    return [str(python), "-P", "-m", "axiom_client", "run", "--no-display"]


def stop_command(python: Path) -> list[str]:
    """The command by which the service asks the agent to stop."""
    return [str(python), "-P", "-m", "axiom_client", "stop"]


class WindowsService(Struct, kw_only=True):
    """The agent's registration with the service manager."""

    manager: ControlManager
    python: Path = Path(sys.executable)

    def install(self) -> str:
        """Register and start the service."""
        try:
            self.manager.create(NAME, DISPLAY_NAME, DESCRIPTION, service_command(self.python))
            self.manager.start(NAME)
        except OSError as error:
            raise _problem("install", error) from None
        return f"installed the service {NAME}; its folder is {data_folder()}"

    def uninstall(self) -> str:
        """Stop and unregister the service."""
        if self._state() is None:
            raise ServiceProblem(f"there is no service {NAME} to remove")
        try:
            self.manager.delete(NAME)
        except OSError as error:
            raise _problem("remove", error) from None
        return f"removed the service {NAME}; {data_folder()} is still there"

    def status(self) -> ServiceStatus:
        """The service's state as the service manager reports it."""
        state = self._state()
        return ServiceStatus(
            installed=state is not None,
            running=state == "running",
            where=NAME,
            detail=state or "not installed",
        )

    def _state(self) -> str | None:
        try:
            return self.manager.query(NAME)
        except OSError as error:
            raise _problem("show", error) from None

    def restart(self) -> str:
        """Stop the service and start it again."""
        try:
            self.manager.stop(NAME)
            self.manager.start(NAME)
        except OSError as error:
            raise _problem("restart", error) from None
        return f"restarted the service {NAME}"


def _problem(doing: str, error: OSError) -> ServiceProblem:
    return ServiceProblem(
        f"Windows did not {doing} the service: {error.strerror or error}; "
        "run this command as administrator"
    )


class Supervisor(Struct, kw_only=True):
    """Runs the agent as a child process until it ends or the service is stopped.

    stop_command   asks the agent to stop through its pipe. Ctrl+Break, which is tried if that
                   fails, reaches no process of a service, because services have no console.
    """

    command: list[str]
    stop_command: list[str] = []
    folder: Path
    wait_for_stop: Callable[[int], bool]  # waits some milliseconds; whether to stop
    log: Callable[[str], None]  # writes a line to the Windows Event Log

    def run(self) -> int:
        """Run the agent to its end; returns its exit code, 0 when the service was stopped."""
        self.folder.mkdir(parents=True, exist_ok=True)
        agent = subprocess.Popen(
            self.command,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            creationflags=_NEW_GROUP,
        )
        self.log(f"the agent runs as process {agent.pid}; its files are in {self.folder}")
        while agent.poll() is None:
            if self.wait_for_stop(_POLL_MS):
                return self._stop(agent)
        self.log(f"the agent ended with code {agent.returncode}")
        return agent.returncode

    def _environment(self) -> dict[str, str]:
        return child_environment(AXIOM_CLIENT_DIR=str(self.folder))

    def _ask_to_stop(self, agent: subprocess.Popen[bytes]) -> None:
        if self.stop_command:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                asked = subprocess.run(
                    self.stop_command, env=self._environment(), stdin=subprocess.DEVNULL,
                    capture_output=True, timeout=_ASK_SECONDS, check=False,
                )  # fmt: skip
                if asked.returncode == 0:
                    return
        try:
            agent.send_signal(_STOP_SIGNAL)
        except OSError as error:
            self.log(f"the agent cannot be asked to stop: {error}")

    def _stop(self, agent: subprocess.Popen[bytes]) -> int:
        self._ask_to_stop(agent)
        try:
            agent.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()
            self.log(f"the agent did not stop in {STOP_SECONDS} s and was ended")
            return 0
        self.log("the agent stopped")
        return 0


def should_restart(exit_code: int) -> bool:
    """Whether starting the agent again may help."""
    return exit_code not in FINAL_EXIT_CODES


# Ctrl+Break, which asks a process to end, can only be sent to a process group of its own.
if sys.platform == "win32":
    _NEW_GROUP, _STOP_SIGNAL = subprocess.CREATE_NEW_PROCESS_GROUP, signal.CTRL_BREAK_EVENT
else:
    _NEW_GROUP, _STOP_SIGNAL = 0, signal.SIGTERM
