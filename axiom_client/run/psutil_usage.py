"""What a process uses, on systems other than Linux, as psutil finds it."""

from __future__ import annotations

from collections.abc import Sequence

import psutil

from axiom_client.run.standstill import Sample
from axiom_client.run.writes import Writes


def sample(pid: int, at: float) -> Sample:
    """The process's CPU time and whether it is stopped; only the time if it has ended."""
    try:
        process = psutil.Process(pid)
        times, status = process.cpu_times(), process.status()
    except psutil.Error:
        return Sample(at)
    return Sample(at, times.user + times.system, status == psutil.STATUS_STOPPED)


def resident_bytes(pid: int) -> int:
    """Resident memory, files that are mapped included; 0 when the process has ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def writes(pid: int) -> Writes:
    """What the process has written, as Windows counts it; zeros on macOS, which does not."""
    try:
        process = psutil.Process(pid)
        written = process.io_counters().write_bytes if hasattr(process, "io_counters") else 0
    except psutil.Error:
        return Writes()
    return Writes(storage_bytes=written, call_bytes=written)


def deleted_bytes(
    pid: int, folders: Sequence[str], file_bytes_max: int, written_bytes: int, *, read_maps: bool
) -> int:
    """Not known on these systems: 0."""
    return 0
