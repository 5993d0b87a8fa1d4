"""The interface of a service on any operating system, and how its system programs are called."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from axiom_client.errors import ServiceProblem
from axiom_client.system.child_environment import child_environment, find_program

NAME = "axiom-client"
#: From the stop signal to the kill: tasks write a checkpoint and the journal is closed.
STOP_SECONDS = 60
#: Before an agent that ended by itself is started again.
RESTART_SECONDS = 30
_COMMAND_TIMEOUT_SECONDS = 120.0  # longer than a stop may take


class ServiceStatus(Struct, frozen=True, kw_only=True):
    """The state of the service, as the operating system reports it."""

    installed: bool
    running: bool
    where: str
    detail: str = ""


class Service(Protocol):
    """A service of one operating system. Methods raise ServiceProblem, which says what to do."""

    def install(self) -> str:
        """Install the service and start it, now and at every boot; returns a line for people."""

    def uninstall(self) -> str:
        """Stop the service and delete what ``install`` wrote. The agent's own folders stay."""

    def status(self) -> ServiceStatus:
        """The state of the service."""

    def restart(self) -> str:
        """Stop the service and start it again."""


class Completed(Struct, frozen=True, kw_only=True):
    """The result of a system program that ended."""

    code: int
    stdout: str = ""
    stderr: str = ""


Runner = Callable[[Sequence[str]], Completed]  # how system programs are run; replaced in tests


def run(command: Sequence[str]) -> Completed:
    """Run a system program to its end. Raises ServiceProblem when it is missing or hangs."""
    try:
        done = subprocess.run(
            [find_program(command[0]) or command[0], *command[1:]],
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_SECONDS,
            check=False,
        )
    except (
        FileNotFoundError,
        PermissionError,
    ):  # the latter for a folder of PATH
        raise ServiceProblem(
            f"{command[0]} is not on this computer, so the agent cannot be a service here; "
            "run it by hand: axiom-client run"
        ) from None
    except subprocess.TimeoutExpired:
        raise ServiceProblem(
            f"{' '.join(command)} did not end within "
            f"{_COMMAND_TIMEOUT_SECONDS:.0f} s; try it by hand"
        ) from None
    return Completed(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


def run_checked(runner: Runner, *command: str) -> str:
    """Run a program that must succeed; returns its output.

    Raises ServiceProblem with the last line that it printed.
    """
    done = runner(command)
    if done.code == 0:
        return done.stdout
    words = (done.stderr or done.stdout).strip().splitlines()
    raise ServiceProblem(
        f"'{' '.join(command)}' failed: {words[-1] if words else f'exit code {done.code}'}"
    )


def program() -> Path:
    """Absolute path of the program as it was called, which the service will start."""
    return Path(sys.argv[0]).absolute()


def write(path: Path, text: str | bytes) -> None:
    """Write a system file. Raises ServiceProblem, for example without the permission."""
    body = text.encode() if isinstance(text, str) else text
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    except PermissionError:
        raise ServiceProblem(f"{path} cannot be written; run this command as root") from None
    except OSError as error:
        raise ServiceProblem(f"{path} cannot be written: {error.strerror}") from None


def remove(path: Path) -> bool:
    """Delete a system file; whether it existed. Raises ServiceProblem."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except PermissionError:
        raise ServiceProblem(f"{path} cannot be removed; run this command as root") from None
    return True
