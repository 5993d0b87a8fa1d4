"""The parts of confinement besides paths and calls: parent, session, priority, capabilities."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Sequence

assert sys.platform == "linux"

from axiom_client.sandbox.errors import SandboxError
from axiom_client.sandbox.libc import call, prctl, raw

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x2008_0522
_IOPRIO_IDLE = 3 << 13  # IOPRIO_CLASS_IDLE
_IOPRIO_WHO_PROCESS = 1
_AUTOGROUP_TRIES, _AUTOGROUP_WAIT_SECONDS = 20, 0.1  # the kernel's own interval
_FIRST_OTHER = 4  # 0-2 are the standard ones, 3 the task's channel


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when ``parent`` ends. SandboxError if it has ended."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, doing="tie this process to its parent")
    if os.getppid() != parent:
        raise SandboxError("the parent process has already ended")


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1, doing="adopt orphans")


def lower_session_priority() -> None:
    """Give this whole session the lowest CPU priority.

    On desktops Linux divides the cores between sessions before it compares priorities within each
    (autogroups, sched(7)): the lowest priority in a session of its own would get as much time as
    all of the volunteer's programs in another. The kernel allows ten such changes a second on the
    whole host, so the zygote makes one for all of its children, which stay in its session.
    """
    for _ in range(_AUTOGROUP_TRIES):
        try:
            with open("/proc/self/autogroup", "w") as file:
                file.write("19")
        except BlockingIOError:
            time.sleep(_AUTOGROUP_WAIT_SECONDS)
            continue
        except OSError:
            return  # this kernel has no autogroups
        return


def lower_priority() -> None:
    """Run only when no other process wants the core or the disk."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except PermissionError:  # some containers forbid it; the lowest nice level is next best
        os.setpriority(os.PRIO_PROCESS, 0, 19)
    raw("ioprio_set", _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)  # not every kernel has I/O priorities


def stay_on(cores: Sequence[int]) -> None:
    """Run on these cores alone, so that memory stays on their NUMA node. The system call filter
    forbids a task to undo it. Cores that are gone meanwhile are no reason to fail."""
    if cores:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cores)


def prefer_for_oom_kill() -> None:
    """Make the kernel kill this process first when memory runs out."""
    descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    os.write(descriptor, b"1000")
    os.close(descriptor)


def drop_capabilities() -> None:
    """Drop all capabilities, also those of root, so that exec cannot bring any back."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1, doing="set NO_NEW_PRIVS")
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, doing="clear ambient capabilities")
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    call("capset", header, bytes(24), doing="drop all capabilities")


def reset_signals() -> None:
    """Restore default signal actions and an empty mask; broken pipes stay Python errors."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
        if number < signal.SIGRTMIN and number != signal.SIGXFSZ:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is meant for the agent


def close_others(kept: int) -> None:
    """Close every descriptor except standard streams, the channel and ``kept``."""
    last = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20)
    os.closerange(_FIRST_OTHER, kept)
    os.closerange(max(kept + 1, _FIRST_OTHER), last)
