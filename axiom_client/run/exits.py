"""Notices in the event loop that a process has ended: no polling, no thread.

Linux tells it by a pidfd; macOS by a kernel queue (kqueue(2), EVFILT_PROC), which is itself a
descriptor that an event loop can wait for.
"""

from __future__ import annotations

import asyncio
import os
import resource
import select
import sys
from collections.abc import Callable

assert sys.platform != "win32"

Usage = resource.struct_rusage
OnExit = Callable[[int, Usage], None]

if sys.platform == "linux":
    _PEAK_UNIT = 1024  # getrusage(2): Linux gives KiB, macOS bytes

    def _opened(pid: int) -> int:
        return os.pidfd_open(pid)

    def _close(descriptor: int) -> None:
        os.close(descriptor)

else:
    _PEAK_UNIT = 1
    _queues: dict[int, select.kqueue] = {}

    def _opened(pid: int) -> int:
        queue = select.kqueue()
        wanted = select.kevent(
            pid,
            select.KQ_FILTER_PROC,
            select.KQ_EV_ADD | select.KQ_EV_ONESHOT,
            select.KQ_NOTE_EXIT,
        )
        queue.control([wanted], 0)
        _queues[queue.fileno()] = queue
        return queue.fileno()

    def _close(descriptor: int) -> None:
        _queues.pop(descriptor).close()


def watch(pid: int, on_exit: OnExit) -> None:
    """Reap ``pid`` when it ends and call ``on_exit(wait status, usage)``."""
    loop = asyncio.get_running_loop()
    try:
        descriptor = _opened(pid)
    except ProcessLookupError:  # macOS does not watch a process that has ended already
        loop.call_soon(_reap, pid, on_exit)
        return

    def ended() -> None:
        loop.remove_reader(descriptor)
        _close(descriptor)
        _reap(pid, on_exit)

    loop.add_reader(descriptor, ended)


def _reap(pid: int, on_exit: OnExit) -> None:
    _, status, usage = os.wait4(pid, 0)
    on_exit(status, usage)


def peak_bytes(usage: Usage) -> int:
    """The largest resident memory."""
    return usage.ru_maxrss * _PEAK_UNIT
