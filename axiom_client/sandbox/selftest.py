"""Checks that the sandbox works on this host. If it does not, the agent runs no task."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from axiom_client.sandbox import mode
from axiom_client.sandbox.common_trials import Outside
from axiom_client.sandbox.errors import SandboxError
from axiom_client.sandbox.mode import Mode, ModeName
from axiom_client.sandbox.policy import DriverAccess, Limits, Policy
from axiom_client.sandbox.roots import read_only_roots

PREFIX = "axiom-trial-"  # of the folders in which the child tries
STALE_SECONDS = 600.0  # such a folder was left by an agent that was killed in its first second
_TRIES = 3  # of a trial that is killed; a system kills processes when its memory runs out
_KILLED = frozenset({-9, 128 + 9})  # by a signal; in bubblewrap, its helper reports it
_SECONDS_MAX = 60.0  # it takes a tenth of a second; a loaded host may take long to schedule it
_LIMITS = Limits(memory_bytes=256 << 20, file_bytes=1 << 20, cpu_seconds=30)


#: Limits for which a system has no means, by mode: the agent checks them itself.
_BY_AGENT: dict[ModeName, list[str]] = {
    "seatbelt": [
        "memory: each second; a task may briefly hold more than it is allowed",
        "end with the agent: a second process ends the tasks when the agent has ended",
        "threads: not limited, as macOS cannot; all run at the lowest priority",
    ],
    "appcontainer": [
        "memory in sections that are shared by name or file: each second",
        "size of files and of the folder: each second",
        "files that Windows lets every app read, as in Program Files, are not hidden from tasks",
        "the clipboard: not closed by the job object where the agent itself is in one",
    ],
}


class TrialProcess(Protocol):
    """A trial that runs: the part of subprocess.Popen that is used."""

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it runs."""

    def communicate(self, *, timeout: float | None = None) -> tuple[bytes, bytes]:
        """What it printed until its end. Raises subprocess.TimeoutExpired."""

    def kill(self) -> None:
        """End it at once."""


class Protection(Struct, frozen=True):
    """One thing that a task must or must not be able to do, and whether the test confirmed it."""

    name: str
    enforced: bool
    reason: str


class SandboxReport(Struct, frozen=True, kw_only=True):
    """The result of the test. ``ok`` is False when any protection is missing; then no task runs.

    by_agent   limits that this system does not enforce, and what the agent does in its place
    """

    mode: ModeName
    ok: bool
    reason: str = ""
    protections: list[Protection] = []
    by_agent: list[str] = []


def _delete_stale_folders(new: Path) -> None:
    """Delete the trial folders that killed agents left behind.

    new  a folder that was made just now: its time is the file system's, which steps of this
         process's clock do not change
    """
    now = new.lstat().st_mtime
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            stale = folder.lstat().st_mtime < now - STALE_SECONDS
        except OSError:
            continue  # its own agent has just removed it
        if stale:
            shutil.rmtree(folder, ignore_errors=True)


def self_test(driver: DriverAccess | None = None) -> SandboxReport:
    """Confine a short-lived child like a task, and let it try everything that must fail.

    With ``driver``, the child is confined like a task on that driver's GPUs.
    """
    return SelfTest(driver).report()


class SelfTest:
    """A self-test in progress: the agent starts up while the child runs."""

    def __init__(self, driver: DriverAccess | None = None) -> None:
        self._mode = mode.choose()
        self._driver = driver
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._process: TrialProcess | None = None
        self._listening: socket.socket | None = None
        self._problem = ""
        if self._mode.mode != "none":
            self._try_to_start()

    def report(self) -> SandboxReport:
        """Wait for the child and return its report. May be called once."""
        chosen = self._mode
        if chosen.mode == "none":
            return SandboxReport(mode="none", ok=False, reason=chosen.reason)
        try:
            protections = self._outcome()
        except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
            reason = self._problem or f"the trial failed: {error}"
            return SandboxReport(mode=chosen.mode, ok=False, reason=reason)
        finally:
            self._clean_up()
        missing = [_name(protection) for protection in protections if not protection.enforced]
        reason = f"not enforced: {', '.join(missing)}" if missing else chosen.reason
        return SandboxReport(
            mode=chosen.mode,
            ok=not missing,
            reason=reason,
            protections=protections,
            by_agent=_BY_AGENT.get(chosen.mode, []),
        )

    def _try_to_start(self) -> None:
        try:
            self._start()
        except (OSError, SandboxError) as error:
            self._problem = f"the trial failed: {error}"

    def _clean_up(self) -> None:
        if self._listening is not None:
            self._listening.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _start(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix=PREFIX)
        _delete_stale_folders(Path(self._scratch.name))
        folder = Path(self._scratch.name).resolve()
        own, outside = folder / "own", folder / "outside.txt"
        own.mkdir()
        outside.write_text("a file of the volunteer's")
        policy = Policy(
            folder=str(own), read_only=read_only_roots(), limits=_LIMITS,
            threads=self._driver is not None, driver=self._driver,
        )  # fmt: skip
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        there = Outside(file=str(outside), port=port, agent=os.getpid())
        self._process = _start_trial(self._mode, policy, there)

    def _outcome(self) -> list[Protection]:
        """What the child found out; it is started again when it was killed."""
        out, err = self._communicate()
        for _ in range(_TRIES - 1):
            if self._process is None or self._process.returncode not in _KILLED:
                break
            self._process = None
            self._clean_up()
            self._try_to_start()
            out, err = self._communicate()
        return self._protections(out, err)

    def _communicate(self) -> tuple[bytes, bytes]:
        process = self._process
        if process is None:
            raise subprocess.SubprocessError(self._problem)
        try:
            return process.communicate(timeout=_SECONDS_MAX)
        except BaseException:  # a timeout, or the agent is stopped: end the child too
            process.kill()
            process.communicate()
            raise

    def _protections(self, out: bytes, err: bytes) -> list[Protection]:
        assert self._process is not None
        if self._process.returncode != 0 or not out:
            printed = err.decode(errors="replace").strip()[-500:]
            raise subprocess.SubprocessError(f"exit code {self._process.returncode}: {printed}")
        answers = msgspec.json.decode(out, type=list[tuple[str, bool, str]])
        return [Protection(*answer) for answer in answers]


def _name(protection: Protection) -> str:
    """Its name; of a trial that could not begin, with the reason."""
    begun = protection.name != "confinement"
    return protection.name if begun else f"{protection.name} ({protection.reason})"


def _start_trial(chosen: Mode, policy: Policy, outside: Outside) -> TrialProcess:
    """Start a process that is confined like a task and tries to break out."""
    if sys.platform == "linux":
        from axiom_client.sandbox import linux_trial

        return linux_trial.start(chosen, policy, outside)
    elif sys.platform == "win32":  # noqa: RET505  mypy skips a branch, not what follows one
        from axiom_client.sandbox import windows_trial

        return windows_trial.start(policy, outside)
    else:
        from axiom_client.sandbox import macos_trial

        return macos_trial.start(policy, outside)
