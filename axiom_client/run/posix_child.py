"""What a task's process uses of Linux and macOS: the channel, the stop signal, confinement."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence

import msgspec

assert sys.platform != "win32"

from axiom_client.run.channel import CHANNEL_DESCRIPTOR, Assignment

#: Built once, before any fork.
ASSIGNMENTS = msgspec.json.Decoder(Assignment)


def send_ends(control: socket.socket, ends: Sequence[int]) -> None:
    """Give a waiting process the channel and the output of its task. Raises OSError."""
    socket.send_fds(control, [b"!"], list(ends))


def receive_ends(control: socket.socket) -> tuple[int, int]:
    """The channel and the output of this process's task, once there is one.

    Ends the process if it is not needed any more.
    """
    data, descriptors, _, _ = socket.recv_fds(control, 1, 2)
    if not data or len(descriptors) != 2:
        os._exit(0)
    return descriptors[0], descriptors[1]


def use_ends(channel: int, output: int) -> None:
    """Make them the standard outputs and the channel, whatever their numbers are."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(channel, CHANNEL_DESCRIPTOR)


class PosixChild:
    """The process of a forked or cold child, with the channel as descriptor 3.

    confine   limits the process to what its assignment allows, and loads missing libraries
    """

    def __init__(self, confine: Callable[[Assignment], None]) -> None:
        self._confine = confine
        self._stop_requested = False

    def receive(self) -> tuple[Assignment, str]:
        """The assignment and the script. Ends the process if the agent sends none."""
        signal.signal(signal.SIGTERM, self._stop)
        with open(CHANNEL_DESCRIPTOR, "rb", closefd=False) as channel:
            line = channel.readline()
            if not line:
                os._exit(0)  # the agent cancelled the task, or has ended
            assignment = ASSIGNMENTS.decode(line)
            return assignment, channel.read(assignment.source_bytes).decode()

    def _stop(self, *_: object) -> None:
        self._stop_requested = True

    def confine(self, assignment: Assignment) -> None:
        """Enter the sandbox. Raises SandboxError, OSError, ImportError."""
        folder = assignment.policy.folder
        if assignment.policy.driver is not None:
            os.environ.update(assignment.policy.driver.environment)
        os.chdir(folder)
        for name in ("HOME", "TMPDIR", "SQLITE_TMPDIR"):  # update() would write to 160 pages
            os.environ[name] = folder
        tempfile.tempdir = folder
        self._confine(assignment)

    def stop_requested(self) -> bool:
        """Whether the agent has sent SIGTERM."""
        return self._stop_requested

    def ignore_stop(self) -> None:
        """A stop signal that arrives from now on has no effect."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def send(self, data: bytes) -> None:
        """Write to the channel."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(CHANNEL_DESCRIPTOR, rest) :]

    def reserve(self, size_bytes: int) -> mmap.mmap:
        """Address space only: it takes no memory as long as nothing is written to it."""
        return mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
