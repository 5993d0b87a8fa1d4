"""The entry point of a task's process on Windows: a new interpreter, confined before it started.

Its input is the assignment, its output the channel; what the experiment prints goes to the error
output. It verifies that it is confined and otherwise runs nothing.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from collections.abc import Callable

import msgspec

assert sys.platform == "win32"

import msvcrt

from axiom_client.run import child, windows_standby_child
from axiom_client.run.channel import Assignment
from axiom_client.sandbox import windows_calls
from axiom_client.sandbox.errors import SandboxError

_READ_BYTES = 64 * 1024


def main(standby: str = "", verify: Callable[[], None] | None = None) -> None:
    """Run the task that the input names.

    standby   the environment that a standby process loads before it knows its task; empty: the
              task is known
    """
    if standby:
        windows_standby_child.wait_for_task(standby)
    child.run_assigned(WindowsChild(verify or verify_confined))


def verify_confined() -> None:
    """Raises SandboxError where this process is not in an AppContainer and a job object."""
    if not windows_calls.in_container():
        raise SandboxError("this process is not in an AppContainer")
    if not windows_calls.in_job():
        raise SandboxError("this process is not in a job object")


class WindowsChild:
    """The process of a task. ``verify`` raises SandboxError where it is not confined."""

    def __init__(self, verify: Callable[[], None]) -> None:
        self._verify = verify
        self._stop_ignored = self._stop_read = False
        self._channel = os.dup(1)
        os.dup2(2, 1)
        for descriptor in (0, self._channel):
            msvcrt.setmode(descriptor, os.O_BINARY)
        self._input = msvcrt.get_osfhandle(0)

    def receive(self) -> tuple[Assignment, str]:
        """The assignment and the script. Ends the process if the agent sends none."""
        data = b""
        while b"\n" not in data:
            data += self._read()
        line, _, source = data.partition(b"\n")
        assignment = msgspec.json.decode(line, type=Assignment)
        while len(source) < assignment.source_bytes:
            source += self._read()
        self._stop_read = len(source) > assignment.source_bytes
        return assignment, source[: assignment.source_bytes].decode()

    def _read(self) -> bytes:
        if not (data := os.read(0, _READ_BYTES)):
            os._exit(0)  # the agent cancelled the task, or has ended
        return data

    def confine(self, assignment: Assignment) -> None:
        """Check the confinement, then import the libraries. Raises SandboxError, ImportError."""
        from axiom_client.run import libraries

        self._verify()
        policy = assignment.policy
        if policy.driver is not None:
            os.environ.update(policy.driver.environment)
        os.chdir(policy.folder)
        for name in ("HOME", "USERPROFILE", "TMP", "TEMP", "TMPDIR"):
            os.environ[name] = policy.folder
        tempfile.tempdir = policy.folder
        libraries.load(assignment.environment)
        child.seed_libraries(assignment.seed)
        sys.stdout, sys.stderr = child.text_output(1), child.text_output(2)

    def stop_requested(self) -> bool:
        """Whether something can be read after the assignment, or the agent has ended."""
        if self._stop_ignored:
            return False
        return self._stop_read or windows_calls.bytes_waiting(self._input) != 0

    def ignore_stop(self) -> None:
        """A request to end that arrives from now on has no effect."""
        self._stop_ignored = True

    def send(self, data: bytes) -> None:
        """Write to the channel."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._channel, rest) :]

    def reserve(self, size_bytes: int) -> mmap.mmap:
        """Memory to be freed when the task has used up all that it may."""
        return mmap.mmap(-1, size_bytes)
