"""Does the sandbox hold on this host? The agent asks at its start, and refuses work if not."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from axiom_client.sandbox import bubblewrap, launch, mode
from axiom_client.sandbox.policy import Limits, Policy
from axiom_client.sandbox.roots import read_only_roots

_SECONDS_MAX = 60.0  # it takes a tenth of a second; a loaded host may take long to schedule it
_LIMITS = Limits(memory_bytes=256 << 20, file_bytes=1 << 20, cpu_seconds=30)


class Protection(Struct, frozen=True):
    """One thing that a task must not be able to do, or must, and whether this host holds it."""

    name: str
    enforced: bool
    reason: str


class SandboxReport(Struct, frozen=True, kw_only=True):
    """What was tried. ``ok`` is False when any protection is missing; then no work is run."""

    mode: Literal["kernel", "bubblewrap", "none"]
    ok: bool
    reason: str = ""
    protections: list[Protection] = []


def self_test() -> SandboxReport:
    """Confine a short-lived child as a task would be, and let it try to get out."""
    chosen = mode.choose()
    if chosen.mode == "none":
        return SandboxReport(mode="none", ok=False, reason=chosen.reason)
    try:
        protections = _try(chosen)
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
        return SandboxReport(mode=chosen.mode, ok=False, reason=f"the trial failed: {error}")
    missing = [protection.name for protection in protections if not protection.enforced]
    reason = f"not enforced: {', '.join(missing)}" if missing else chosen.reason
    return SandboxReport(mode=chosen.mode, ok=not missing, reason=reason, protections=protections)


def _try(chosen: mode.Mode) -> list[Protection]:
    with tempfile.TemporaryDirectory(prefix="axiom-trial-") as scratch:
        own, outside = Path(scratch).resolve() / "own", Path(scratch).resolve() / "outside.txt"
        own.mkdir()
        outside.write_text("a file of the volunteer's")
        policy = Policy(folder=str(own), read_only=read_only_roots(), limits=_LIMITS)
        kernel = chosen.mode == "kernel"
        parent = os.getpid() if kernel else 0  # 0: in a process namespace there is none
        text = msgspec.json.encode(policy).decode()
        command = launch.command("axiom_client.sandbox.trial", parent, text, str(outside), kernel)
        done = subprocess.run(
            command if kernel else bubblewrap.wrap(chosen.helper, policy, command),
            env=launch.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS_MAX,
        )
    if done.returncode != 0 or not done.stdout:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise subprocess.SubprocessError(f"exit code {done.returncode}: {said}")
    answers = msgspec.json.decode(done.stdout, type=list[tuple[str, bool, str]])
    return [Protection(*answer) for answer in answers]
