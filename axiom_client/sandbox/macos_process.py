"""Confines the calling process on macOS: priority, limits, open files, then Seatbelt.

macOS applies limits of CPU time, file size and open files (setrlimit(2)), but none of memory: the
agent checks it each second.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
import time

assert sys.platform != "win32"

from axiom_client.sandbox import macos
from axiom_client.sandbox.policy import Policy

CPU_GRACE_SECONDS = 2  # after SIGXCPU, for a task that ignores it
_FIRST_OTHER = 4  # 0-2 are the standard ones, 3 the task's channel
_LAST = 65_536
_NICEST = 19
#: The first two cannot be set. Broken pipes and files that are too large stay Python errors.
_KEPT_SIGNALS = {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}


def detach() -> None:
    """Take a session without a terminal, and the signal actions of a new process."""
    os.setsid()
    for number in signal.valid_signals() - _KEPT_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is meant for the agent


def confine(policy: Policy) -> None:
    """Confine this process. Raises SandboxError, OSError."""
    if policy.background:
        os.setpriority(os.PRIO_PROCESS, 0, _NICEST)
    os.closerange(_FIRST_OTHER, _LAST)
    for which, limit in resource_limits(policy, time.process_time()):
        resource.setrlimit(which, limit)
    macos.restrict(policy)


def resource_limits(policy: Policy, used_seconds: float = 0.0) -> list[tuple[int, tuple[int, int]]]:
    """(resource, (soft, hard)) for setrlimit. ``used_seconds``: CPU time before the task."""
    figures = policy.limits
    cpu = max(1, math.ceil(figures.cpu_seconds + used_seconds))
    return [
        (resource.RLIMIT_CPU, (cpu, cpu + CPU_GRACE_SECONDS)),
        (resource.RLIMIT_FSIZE, (figures.file_bytes, figures.file_bytes)),
        (resource.RLIMIT_NOFILE, (figures.open_files, figures.open_files)),
        (resource.RLIMIT_CORE, (0, 0)),
    ]
