"""Notices in the event loop that a process has ended, by pidfd: no polling, no thread."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable

OnExit = Callable[[int, resource.struct_rusage], None]


def watch(pid: int, on_exit: OnExit) -> None:
    """Reap ``pid`` when it ends and call ``on_exit(wait status, usage)``."""
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(pid)

    def reap() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        _, status, usage = os.wait4(pid, 0)
        on_exit(status, usage)

    loop.add_reader(descriptor, reap)
