"""How much memory a process holds that no file of the disk backs."""

from __future__ import annotations

_COUNTED = ("RssAnon:", "RssShmem:")
_KIB = 1024


def resident_bytes(pid: int) -> int:
    """Its resident pages, private and shared, without a file; 0 when it has ended.

    A process that drives a GPU has no limit on its address space, and the kernel's limit on data
    leaves out memory that is shared. Source: proc_pid_status(5).
    """
    try:
        with open(f"/proc/{pid}/status") as status:
            lines = [line.split() for line in status if line.startswith(_COUNTED)]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return sum(int(line[1]) * _KIB for line in lines)
