"""The processor cores and memory that this process may use, with all limits applied."""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil
from msgspec import Struct

from axiom_client.host.cgroup import cpu_quota, levels, memory_limit
from axiom_client.host.slurm import allocated_cores, allocated_memory_bytes

CPUINFO = Path("/proc/cpuinfo")


class Cores(Struct, frozen=True, kw_only=True):
    """Numbers of cores, ``usable`` of them by the agent. ``quota``: in cores; None: no quota."""

    logical: int
    physical: int
    affinity: int
    quota: float | None
    usable: int
    processor: str


class Memory(Struct, frozen=True, kw_only=True):
    """``total_bytes`` is the host's memory, or a lower limit of a cgroup or an allocation."""

    total_bytes: int
    free_bytes: int


def probe_cores() -> Cores:
    """Find the cores that this process may use."""
    logical = psutil.cpu_count() or 1
    affinity, quota = _affinity(), cpu_quota(levels("cpu"))
    return Cores(
        logical=logical,
        physical=psutil.cpu_count(logical=False) or logical,
        affinity=affinity,
        quota=quota,
        usable=usable_cores(affinity, quota, allocated_cores()),
        processor=_processor(),
    )


def cores_now() -> int:
    """How many cores are ``usable`` now, without the other facts, which take longer to find."""
    return usable_cores(_affinity(), cpu_quota(levels("cpu")), allocated_cores())


def _affinity() -> int:
    """Cores that are online and in this process's cpuset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1


def usable_cores(affinity: int, quota: float | None, allocated: int | None) -> int:
    """Whole cores within every limit; at least one, since a task also runs on a part of a core."""
    limits = [affinity, math.floor(quota) if quota else affinity, allocated or affinity]
    return max(1, min(limits))


def probe_memory() -> Memory:
    """Find the memory that this process may use."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit = memory_limit(levels("memory"))
    if limit is not None and limit.limit_bytes < total:
        total = limit.limit_bytes
        free = min(free, max(0, limit.limit_bytes - limit.used_bytes))
    allocated = allocated_memory_bytes()
    if allocated is not None and allocated < total:
        total, free = allocated, min(free, allocated)
    return Memory(total_bytes=total, free_bytes=free)


def _processor() -> str:
    try:
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()[:200]
    except OSError:
        pass  # not Linux: use the platform's name, below
    import platform

    return platform.processor()[:200]
