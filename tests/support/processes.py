"""Wait for other processes, also on busy machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import psutil

T = TypeVar("T")
WAIT_SECONDS = 90.0  # generous: two shared cores may be busy with anything
#: A command that hangs must still end; publishing tries six experiments twice, on two busy cores.
COMMAND_SECONDS_MAX = 900.0
POLL_SECONDS = 0.05
POLL_SECONDS_MAX = 1.0
IDLE_TIMES = 4  # times as long as a poll took, so that polling takes a fifth of a core at most


def wait_for(what: str, probe: Callable[[], T], seconds: float = WAIT_SECONDS) -> T:
    """Poll until ``probe`` is truthy; fail with ``what`` when it never is.

    Between two polls it waits for longer than a poll takes, so that repeated commands do not use
    the core that the awaited process needs.
    """
    until = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if value := probe():
            return value
        now = time.monotonic()
        if now > until:
            raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")
        took = now - began
        time.sleep(max(POLL_SECONDS, took, min(IDLE_TIMES * took, POLL_SECONDS_MAX)))


def runs(process: psutil.Process) -> bool:
    """Whether it exists, other than as a zombie that init (any process, in a container) reaps."""
    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def still_running(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that run still after ``seconds``; returns as soon as none does."""
    until = time.monotonic() + seconds
    while alive := [process for process in processes if runs(process)]:
        if time.monotonic() > until:
            break
        time.sleep(POLL_SECONDS)
    return alive
