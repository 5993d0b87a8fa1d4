"""The trial of Seatbelt: a short-lived process that confines itself and tries to break out."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import msgspec

assert sys.platform != "win32"

from axiom_client.sandbox import launch, macos_process
from axiom_client.sandbox.common_trials import Answer, Outside, common_trials, refused
from axiom_client.sandbox.errors import SandboxError
from axiom_client.sandbox.policy import Policy

MODULE = "axiom_client.sandbox.macos_trial"


def start(policy: Policy, outside: Outside) -> subprocess.Popen[bytes]:
    """Start the trial; it prints its answers as JSON."""
    texts = [msgspec.json.encode(value).decode() for value in (policy, outside)]
    return subprocess.Popen(
        launch.command(MODULE, *texts),
        env=launch.environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def main(policy_json: str, outside_json: str) -> None:
    """Confine this process, try everything, print the answers."""
    policy = msgspec.json.decode(policy_json, type=Policy)
    outside = msgspec.json.decode(outside_json, type=Outside)
    try:
        macos_process.detach()
        os.chdir(policy.folder)
        macos_process.confine(policy)
        answers = [*common_trials(outside), *_own_trials(policy)]
    except (SandboxError, OSError) as error:
        answers = [("confinement", False, str(error))]
    os.write(1, json.dumps(answers).encode())
    os._exit(0)


def _own_trials(policy: Policy) -> list[Answer]:
    return [
        refused("no links", lambda: os.symlink("/etc/passwd", "link")),
        refused("no new programs", _exec),
        refused("no signals to others", lambda: os.kill(os.getppid(), 0)),
        _large_file(policy.limits.file_bytes + 1),
    ]


def _exec() -> None:
    """Exec a file that is no program: where exec is allowed, it fails with ENOEXEC instead."""
    descriptor = os.open("program", os.O_WRONLY | os.O_CREAT, 0o700)
    os.write(descriptor, b"\0")
    os.close(descriptor)
    os.execv("program", ["program"])


def _large_file(size_bytes: int) -> Answer:
    name = "no larger file than allowed"
    try:
        with open("big", "wb") as file:
            file.truncate(size_bytes)
    except OSError as error:
        return name, True, str(error)
    return name, False, "it was allowed"
