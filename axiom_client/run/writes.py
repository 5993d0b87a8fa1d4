"""How much a task's process has written, and how much it may have written by now."""

from __future__ import annotations

from msgspec import Struct

from axiom_client.decide.task_run import TaskLimits

#: How much a task may write to storage in total: a fixed part, a multiple of its disk limit, and a
#: part that grows with time, enough for a 5 MB checkpoint every ten seconds.
WRITTEN_BYTES_FREE = 1_000_000
WRITTEN_PER_DISK_BYTE = 4
WRITTEN_BYTES_PER_SECOND = 500_000


class Writes(Struct, frozen=True, kw_only=True):
    """What a process has written: to storage, and to files, pipes and sockets of any kind."""

    storage_bytes: int = 0
    call_bytes: int = 0


def written_bytes_allowed(limits: TaskLimits, elapsed_seconds: float) -> int:
    """How much a task may have written to storage by now: more would wear out a disk."""
    steady = WRITTEN_BYTES_PER_SECOND * elapsed_seconds
    return WRITTEN_BYTES_FREE + WRITTEN_PER_DISK_BYTE * limits.disk_bytes + int(steady)
