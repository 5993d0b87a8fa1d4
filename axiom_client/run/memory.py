"""Measures the memory of a process that is not backed by a file on disk."""

from __future__ import annotations

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
