"""Checks that the sandbox works on this host. If it does not, the agent runs no task."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from axiom_client.sandbox import bubblewrap, launch, mode
from axiom_client.sandbox.policy import DriverAccess, Limits, Policy
from axiom_client.sandbox.roots import read_only_roots

PREFIX = "axiom-trial-"  # of the folders in which the child tries
STALE_SECONDS = 600.0  # such a folder was left by an agent that was killed in its first second
_SECONDS_MAX = 60.0  # it takes a tenth of a second; a loaded host may take long to schedule it
_LIMITS = Limits(memory_bytes=256 << 20, file_bytes=1 << 20, cpu_seconds=30)


class Protection(Struct, frozen=True):
    """One thing that a task must or must not be able to do, and whether the test confirmed it."""

    name: str
    enforced: bool
    reason: str


class SandboxReport(Struct, frozen=True, kw_only=True):
    """The result of the test. ``ok`` is False when any protection is missing; then no task runs."""

    mode: Literal["kernel", "bubblewrap", "none"]
    ok: bool
    reason: str = ""
    protections: list[Protection] = []


def _delete_stale_folders() -> None:
    """Delete the trial folders that killed agents left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            stale = folder.lstat().st_mtime < time.time() - STALE_SECONDS
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
        self._process: subprocess.Popen[bytes] | None = None
        self._problem = ""
        if self._mode.mode != "none":
            try:
                self._start()
            except OSError as error:
                self._problem = f"the trial failed: {error}"

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
            if self._scratch is not None:
                self._scratch.cleanup()
        missing = [protection.name for protection in protections if not protection.enforced]
        reason = f"not enforced: {', '.join(missing)}" if missing else chosen.reason
        return SandboxReport(
            mode=chosen.mode, ok=not missing, reason=reason, protections=protections
        )

    def _start(self) -> None:
        _delete_stale_folders()
        self._scratch = tempfile.TemporaryDirectory(prefix=PREFIX)
        folder = Path(self._scratch.name).resolve()
        own, outside = folder / "own", folder / "outside.txt"
        own.mkdir()
        outside.write_text("a file of the volunteer's")
        policy = Policy(
            folder=str(own), read_only=read_only_roots(), limits=_LIMITS,
            threads=self._driver is not None, driver=self._driver,
        )  # fmt: skip
        kernel = self._mode.mode == "kernel"
        parent = os.getpid() if kernel else 0  # 0: there is no parent inside a process namespace
        text = msgspec.json.encode(policy).decode()
        command = launch.command("axiom_client.sandbox.trial", parent, text, str(outside), kernel)
        self._process = subprocess.Popen(
            command if kernel else bubblewrap.wrap(self._mode.helper, policy, command),
            env=launch.environment({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _outcome(self) -> list[Protection]:
        process = self._process
        if process is None:
            raise subprocess.SubprocessError(self._problem)
        try:
            out, err = process.communicate(timeout=_SECONDS_MAX)
        except BaseException:  # a timeout, or the agent is stopped: end the child too
            process.kill()
            process.communicate()
            raise
        if process.returncode != 0 or not out:
            printed = err.decode(errors="replace").strip()[-500:]
            raise subprocess.SubprocessError(f"exit code {process.returncode}: {printed}")
        answers = msgspec.json.decode(out, type=list[tuple[str, bool, str]])
        return [Protection(*answer) for answer in answers]
