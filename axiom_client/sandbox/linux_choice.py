"""Chooses between the two sandboxes of Linux: the kernel's own, and bubblewrap."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

assert sys.platform == "linux"

from axiom_client.sandbox import landlock
from axiom_client.sandbox.mode import Mode
from axiom_client.sandbox.syscalls import ARCHITECTURES
from axiom_client.system.child_environment import find_program

_TRIAL_SECONDS = 10.0  # bubblewrap starts in milliseconds; a container may make it hang


def choose_on_linux() -> Mode:
    if platform.machine() not in ARCHITECTURES:
        return Mode(mode="none", reason=f"no system call table for {platform.machine()}")
    if not hasattr(os, "pidfd_open"):
        return Mode(mode="none", reason="this Python has no pidfd_open; Linux 5.3 is needed")
    if landlock.abi_version() >= 1:
        return Mode(mode="kernel")
    no_landlock = "the kernel has no Landlock (Linux 5.13 or newer, with 'landlock' among its LSMs)"
    helper = find_program("bwrap")
    if helper is None:
        return Mode(mode="none", reason=f"{no_landlock}, and bubblewrap is not installed")
    if setup_error := _try_bubblewrap(helper):
        return Mode(
            mode="none", reason=f"{no_landlock}, and bubblewrap does not work here: {setup_error}"
        )
    return Mode(mode="bubblewrap", reason=no_landlock, helper=helper)


def _try_bubblewrap(helper: str) -> str:
    command = [helper, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_TRIAL_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return done.stderr.decode(errors="replace").strip()[-300:] or f"exit code {done.returncode}"
