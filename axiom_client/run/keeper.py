"""Ends the tasks when the agent ends, on systems whose kernel does not: a small process beside it.

The agent writes "+PID" when a task has started and "-PID" when it has ended. At the end of its
input, that is when the agent has ended in whatever way, the keeper kills the tasks that are left.
The sandbox forbids tasks to signal it. A process that took over a task's number is spared: psutil
compares when the processes were started.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import IO

import psutil

from axiom_client.sandbox import launch


class Keeper:
    """The agent's side of the keeper, which is started with the first task."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, pid: int) -> None:
        """End this process when the agent ends."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                launch.command("axiom_client.run.keeper"),
                env=launch.environment({}),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # not ended by what a terminal sends to the agent
            )
        self._write(b"+%d\n" % pid)

    def remove(self, pid: int) -> None:
        """This process has ended."""
        self._write(b"-%d\n" % pid)

    def close(self) -> None:
        """Let the keeper end."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process = None

    def _write(self, line: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):  # ``add`` starts it again
            self._process.stdin.write(line)
            self._process.stdin.flush()


def main() -> None:
    """Keep a list of processes until the end of input; then kill them."""
    for process in followed(sys.stdin.buffer).values():
        with contextlib.suppress(psutil.Error):
            process.kill()


def followed(lines: IO[bytes]) -> dict[int, psutil.Process]:
    """The processes that are left at the end of ``lines``."""
    left: dict[int, psutil.Process] = {}
    for line in lines:
        pid = int(line[1:])
        if line.startswith(b"-"):
            left.pop(pid, None)
            continue
        with contextlib.suppress(psutil.Error):
            left[pid] = psutil.Process(pid)
    return left
