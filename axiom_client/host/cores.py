"""The processor and memory that this process may really use: affinity and cgroup limits counted."""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil
from msgspec import Struct

CGROUP = Path("/sys/fs/cgroup")
CPUINFO = Path("/proc/cpuinfo")


class Cores(Struct, frozen=True, kw_only=True):
    """``usable`` whole cores of ``logical``; ``quota`` in cores, None where there is none."""

    logical: int
    physical: int
    affinity: int
    quota: float | None
    usable: int
    processor: str


class Memory(Struct, frozen=True, kw_only=True):
    """``total_bytes`` is the host's, or the cgroup's limit where that is lower."""

    total_bytes: int
    free_bytes: int


def probe_cores() -> Cores:
    """Facts of the processor."""
    logical = psutil.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    quota = cpu_quota(own_cgroup())
    usable = min(affinity, math.floor(quota)) if quota else affinity
    return Cores(
        logical=logical,
        physical=psutil.cpu_count(logical=False) or logical,
        affinity=affinity,
        quota=quota,
        usable=max(1, usable),
        processor=_processor(),
    )


def probe_memory() -> Memory:
    """Facts of the memory."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    for folder in _upwards(own_cgroup()):
        limit = _number(folder / "memory.max")
        if limit is not None and limit < total:
            used = _number(folder / "memory.current") or 0
            total, free = int(limit), min(free, max(0, int(limit - used)))
    return Memory(total_bytes=total, free_bytes=free)


def own_cgroup(listing: Path = Path("/proc/self/cgroup"), root: Path = CGROUP) -> Path | None:
    """This process's folder in the cgroup v2 tree; None elsewhere."""
    try:
        lines = listing.read_text().splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    return None if path is None else root / path.lstrip("/")


def cpu_quota(folder: Path | None) -> float | None:
    """The tightest cgroup quota in cores: cpu.max of the folder and of all above it."""
    found = []
    for level in _upwards(folder):
        try:
            quota, period = (level / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            found.append(int(quota) / int(period))
    return min(found, default=None)


def _upwards(folder: Path | None) -> list[Path]:
    """The folder and those above it, as far as the cgroup tree goes."""
    if folder is None:
        return []
    return [folder, *(p for p in folder.parents if p.is_relative_to(CGROUP))]


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):  # absent, or the word "max"
        return None


def _processor() -> str:
    try:
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()[:200]
    except OSError:
        pass  # not Linux: the platform's own word below
    import platform

    return platform.processor()[:200]
