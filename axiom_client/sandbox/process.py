"""What a confined process gives up besides paths and calls: parent, session, rank, capabilities."""

from __future__ import annotations

import os
import resource
import signal
import struct
import time

from axiom_client.sandbox.libc import SandboxError, call, prctl, raw

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x2008_0522
_IOPRIO_IDLE = 3 << 13  # IOPRIO_CLASS_IDLE
_IOPRIO_WHO_PROCESS = 1
_AUTOGROUP_TRIES, _AUTOGROUP_WAIT_SECONDS = 20, 0.1  # the kernel's own interval
_FIRST_OTHER = 4  # 0-2 are the standard ones, 3 the task's channel


def die_with(parent: int) -> None:
    """Be killed when ``parent`` dies. Raises SandboxError when it is dead already."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, doing="tie this process to its parent")
    if os.getppid() != parent:
        raise SandboxError("the parent is already gone")


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1, doing="adopt orphans")


def step_back_session() -> None:
    """Give this whole session the last share of the cores.

    Linux may share the cores among sessions before it looks at the ranks within each (autogroups,
    sched(7): usual on desktops), and the lowest rank in a session of its own would then get as much
    as all that the volunteer does in another. The kernel lets this be said ten times a second on
    the whole host, so it is said for many tasks at once: a zygote's children stay in its session.
    """
    for _ in range(_AUTOGROUP_TRIES):
        try:
            with open("/proc/self/autogroup", "w") as file:
                file.write("19")
        except BlockingIOError:
            time.sleep(_AUTOGROUP_WAIT_SECONDS)
            continue
        except OSError:
            return  # this kernel does not share by sessions
        return


def step_back() -> None:
    """Run only when nothing else wants the core or the disk."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except PermissionError:  # some containers forbid it; the lowest ordinary rank is next best
        os.setpriority(os.PRIO_PROCESS, 0, 19)
    raw("ioprio_set", _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)  # not every kernel has I/O ranks


def volunteer_for_oom() -> None:
    """When memory runs out, this process goes before anything of the volunteer's."""
    descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    os.write(descriptor, b"1000")
    os.close(descriptor)


def drop_capabilities() -> None:
    """Root keeps its number but loses its powers; nobody can gain any by exec."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1, doing="set NO_NEW_PRIVS")
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, doing="clear ambient capabilities")
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    call("capset", header, bytes(24), doing="drop all capabilities")


def reset_signals() -> None:
    """Default action and no mask, whatever the parent had set; broken pipes stay errors."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
        if number < signal.SIGRTMIN and number != signal.SIGXFSZ:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the agent


def close_others(kept: int) -> None:
    """Close every descriptor but input, output, the channel and ``kept``."""
    last = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20)
    os.closerange(_FIRST_OTHER, kept)
    os.closerange(max(kept + 1, _FIRST_OTHER), last)
