"""The resource limits of a policy in the form that setrlimit takes."""

from __future__ import annotations

import math
import os
import resource
import sys

assert sys.platform == "linux"

from axiom_client.sandbox.policy import Policy

#: The CPU limit sends SIGXCPU; a task that ignores it is killed this much later.
CPU_GRACE_SECONDS = 2
_PAGE_BYTES = resource.getpagesize()
_THREADS_MAX = 32_768  # the smallest number of processes that a kernel of 64 bits allows
_RLIMIT_SIGPENDING = 11  # asm-generic/resource.h; Python has no name for it


class MemoryGauge:
    """Reads this process's memory use. Opened before Landlock closes /proc, read afterwards."""

    def __init__(self) -> None:
        self._descriptor = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor that must stay open when all others are closed."""
        return self._descriptor

    def read_and_close(self) -> tuple[int, int]:
        """(address space, private writable memory) in bytes."""
        fields = os.read(self._descriptor, 200).split()
        os.close(self._descriptor)
        return int(fields[0]) * _PAGE_BYTES, int(fields[5]) * _PAGE_BYTES


def resource_limits(policy: Policy, held: tuple[int, int]) -> list[tuple[int, tuple[int, int]]]:
    """(resource, (soft, hard)) for setrlimit; memory limits are added to what is ``held`` already.

    RLIMIT_AS limits all mappings, RLIMIT_DATA the private ones. A GPU driver reserves far more
    address space than it uses, so a GPU task has RLIMIT_DATA only, and the agent checks its
    shared memory.
    """
    figures = policy.limits
    cpu = max(1, math.ceil(figures.cpu_seconds))
    allowed = figures.memory_bytes + (policy.driver.memory_bytes if policy.driver else 0)
    address_space, data = (allowed + bytes_ for bytes_ in held)
    limits = [
        (resource.RLIMIT_CPU, (cpu, cpu + CPU_GRACE_SECONDS)),
        (resource.RLIMIT_FSIZE, (figures.file_bytes, figures.file_bytes)),
        (resource.RLIMIT_NOFILE, (figures.open_files, figures.open_files)),
        (resource.RLIMIT_CORE, (0, 0)),
        (resource.RLIMIT_MEMLOCK, (0, 0)),
        (resource.RLIMIT_MSGQUEUE, (0, 0)),
        (_RLIMIT_SIGPENDING, (figures.queued_signals, figures.queued_signals)),
        (resource.RLIMIT_DATA, (data, data)),
    ]
    if policy.threads:
        threads = _half_of_threads(resource.getrlimit(resource.RLIMIT_NPROC)[0])
        limits.append((resource.RLIMIT_NPROC, (threads, threads)))
    if policy.driver is None:
        limits.append((resource.RLIMIT_AS, (address_space, address_space)))
    return limits


def _half_of_threads(allowed: int) -> int:
    """Where a task's threads end: the kernel counts those of all processes of the user together,
    so the other half is left to the volunteer's programs."""
    return (_THREADS_MAX if allowed == resource.RLIM_INFINITY else min(allowed, _THREADS_MAX)) // 2


def apply(limits: list[tuple[int, tuple[int, int]]]) -> None:
    """Set every limit, none above a hard limit that is in force already."""
    for which, (soft, hard) in limits:
        ceiling = resource.getrlimit(which)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(which, (soft, hard))
