"""The trial of a job object and an AppContainer: a process inside them that tries to break out."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec

assert sys.platform == "win32"

import msvcrt

from axiom_client.sandbox import launch, windows_calls, windows_container
from axiom_client.sandbox.common_trials import Answer, Outside, common_trials
from axiom_client.sandbox.policy import RUNTIME_BYTES, Policy
from axiom_client.sandbox.windows import container_attributes, job_attributes
from axiom_client.sandbox.windows_process import ENDED_BY_AGENT, ConfinedProcess

MODULE = "axiom_client.sandbox.windows_trial"


class Trial:
    """The trial's process. Its output goes to files beside the folder that it may use."""

    def __init__(self, policy: Policy, outside: Outside) -> None:
        self.returncode: int | None = None
        self._printed = [Path(outside.file).with_name(name) for name in ("out", "err")]
        container = windows_container.prepare(container_attributes(policy, "axiom-trial"))
        with contextlib.ExitStack() as opened:
            modes = [(Path(os.devnull), "rb"), *((path, "wb") for path in self._printed)]
            files = [opened.enter_context(path.open(mode)) for path, mode in modes]
            descriptors = [msvcrt.get_osfhandle(file.fileno()) for file in files]
            texts = [msgspec.json.encode(value).decode() for value in (policy, outside)]
            self._process = ConfinedProcess(
                launch.command(MODULE, *texts),
                launch.environment({}),
                policy.folder,
                (descriptors[0], descriptors[1], descriptors[2]),
                job_attributes(policy, nested=windows_calls.in_job()),
                container,
            )

    def communicate(self, timeout: float | None = None) -> tuple[bytes, bytes]:
        """As subprocess.Popen.communicate. Raises subprocess.TimeoutExpired."""
        wait_ms = 0xFFFF_FFFE if timeout is None else int(timeout * 1000)
        if self.returncode is None:
            self.returncode = self._process.exit_code(wait_ms)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("the trial", timeout or 0.0)
        self._process.close()
        out, err = (path.read_bytes() for path in self._printed)
        return out, err

    def kill(self) -> None:
        """End it at once."""
        if self.returncode is None:
            self._process.kill()
            self._process.exit_code(10_000)
            self.returncode = ENDED_BY_AGENT
            self._process.close()


def start(policy: Policy, outside: Outside) -> Trial:
    """Start the trial. Raises OSError, SandboxError."""
    return Trial(policy, outside)


def main(policy_json: str, outside_json: str) -> None:
    """Try everything from inside; print the answers."""
    policy = msgspec.json.decode(policy_json, type=Policy)
    outside = msgspec.json.decode(outside_json, type=Outside)
    answers = [
        ("runs in an AppContainer", windows_calls.in_container(), "its token says so"),
        ("runs in a job object", windows_calls.in_job(), "Windows says so"),
        *common_trials(outside),
        _memory(policy.limits.memory_bytes + RUNTIME_BYTES),
    ]
    os.write(1, json.dumps(answers).encode())
    os._exit(0)


def _memory(size_bytes: int) -> Answer:
    name = "no more memory than allowed"
    try:
        bytearray(size_bytes)
    except MemoryError:
        return name, True, "MemoryError"
    return name, False, "it was allowed"
