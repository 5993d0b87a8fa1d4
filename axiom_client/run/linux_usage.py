"""What a process uses, as Linux shows it below /proc."""

from __future__ import annotations

import os
import sys

assert sys.platform == "linux"

from axiom_client.run.standstill import Sample

STOPPED = frozenset({"T", "t"})  # by a signal, by a debugger: proc_pid_stat(5)
_COUNTED = ("RssAnon:", "RssShmem:")
_KIB = 1024


def resident_bytes(pid: int) -> int:
    """Resident anonymous and shared memory; 0 when the process has ended.

    A GPU task has no limit on its address space, and RLIMIT_DATA does not include shared memory.
    Source: proc_pid_status(5).
    """
    try:
        with open(f"/proc/{pid}/status") as status:
            lines = [line.split() for line in status if line.startswith(_COUNTED)]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return sum(int(line[1]) * _KIB for line in lines)


def sample(pid: int, at: float) -> Sample:
    """Read /proc. If the process has ended, only the time is known."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            words = file.read().rpartition(")")[2].split()
    except OSError:
        return Sample(at)
    ticks = int(words[11]) + int(words[12])
    return Sample(at, ticks / os.sysconf("SC_CLK_TCK"), words[0] in STOPPED, int(words[36]))
