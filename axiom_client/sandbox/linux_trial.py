"""Starts the trial of Linux' sandboxes; ``trial`` is what runs in it."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec

assert sys.platform == "linux"

from axiom_client.sandbox import bubblewrap, launch
from axiom_client.sandbox.common_trials import Outside
from axiom_client.sandbox.mode import Mode
from axiom_client.sandbox.policy import Policy


def start(chosen: Mode, policy: Policy, outside: Outside) -> subprocess.Popen[bytes]:
    """Start the trial; it prints its answers as JSON."""
    kernel = chosen.mode == "kernel"
    parent = os.getpid() if kernel else 0  # 0: there is no parent inside a process namespace
    text = msgspec.json.encode(policy).decode()
    command = launch.command("axiom_client.sandbox.trial", parent, text, outside.file, kernel)
    return subprocess.Popen(
        command if kernel else bubblewrap.wrap(chosen.helper, policy, command),
        env=launch.environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
