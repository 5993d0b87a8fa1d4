"""What every operating system's service can do, and how its commands are called."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from axiom_client.errors import ServiceProblem

NAME = "axiom-client"
#: From the polite signal to the forced one: tasks keep a checkpoint and the journal is closed.
STOP_SECONDS = 60
#: Between two starts of an agent that ended by itself.
RESTART_SECONDS = 30
_COMMAND_TIMEOUT_SECONDS = 120.0  # longer than a stop may take


class ServiceStatus(Struct, frozen=True, kw_only=True):
    """What the operating system says of the service."""

    installed: bool
    running: bool
    where: str
    detail: str = ""


class Service(Protocol):
    """One way of being a service. Each method raises ServiceProblem with what to do about it."""

    def install(self) -> str:
        """Write what the system needs, start now and at every boot; returns a line for people."""

    def uninstall(self) -> str:
        """Stop it and take away what ``install`` wrote. The agent's own folders stay."""

    def status(self) -> ServiceStatus:
        """Look; changes nothing."""

    def restart(self) -> str:
        """Stop and start."""


class Completed(Struct, frozen=True, kw_only=True):
    """A command that ended."""

    code: int
    stdout: str = ""
    stderr: str = ""


Runner = Callable[[Sequence[str]], Completed]  # the one seam to the system's own programs


def run(command: Sequence[str]) -> Completed:
    """Run one of the system's programs to its end. Raises ServiceProblem when it is not there."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_SECONDS,
            check=False,
        )
    except (FileNotFoundError, PermissionError):  # the latter: a folder of PATH that is not ours
        raise ServiceProblem(
            f"{command[0]} is not on this machine, so there is no service to speak of here; "
            "run the agent by hand: axiom-client run"
        ) from None
    except subprocess.TimeoutExpired:
        raise ServiceProblem(f"{' '.join(command)} did not end; try it by hand") from None
    return Completed(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


def must(runner: Runner, *command: str) -> str:
    """Run a command that must succeed; its output. Raises ServiceProblem with its last word."""
    done = runner(command)
    if done.code == 0:
        return done.stdout
    words = (done.stderr or done.stdout).strip().splitlines()
    raise ServiceProblem(
        f"'{' '.join(command)}' failed: {words[-1] if words else f'exit code {done.code}'}"
    )


def program() -> Path:
    """The agent's program as it was called, absolute; what the service will start."""
    return Path(sys.argv[0]).absolute()


def write(path: Path, text: str | bytes) -> None:
    """Write a file of the system's. Raises ServiceProblem when this user may not."""
    body = text.encode() if isinstance(text, str) else text
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    except PermissionError:
        raise ServiceProblem(f"{path} cannot be written; run this command as root") from None
    except OSError as error:
        raise ServiceProblem(f"{path} cannot be written: {error.strerror}") from None


def remove(path: Path) -> bool:
    """Delete a file of the system's; whether it was there. Raises ServiceProblem."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except PermissionError:
        raise ServiceProblem(f"{path} cannot be removed; run this command as root") from None
    return True
