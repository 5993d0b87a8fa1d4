"""The signals by which a terminal or a service manager asks the agent to stop, or to reload."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType


def handle_signals(stop: Callable[[str], None], reload: Callable[[], str]) -> None:
    """Call ``stop`` with a reason, or ``reload``, in the running loop when a signal arrives.

    Windows has no signals: there, Ctrl+C and Ctrl+Break of a console arrive as such, the latter
    from the agent's service. Python runs their handlers between two steps of the loop.
    """
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        for number in (signal.SIGINT, signal.SIGBREAK):
            signal.signal(number, partial(_pass_on, loop, stop))
    else:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, f"received {number.name}")
        loop.add_signal_handler(signal.SIGHUP, reload)


def _pass_on(
    loop: asyncio.AbstractEventLoop,
    stop: Callable[[str], None],
    number: int,
    frame: FrameType | None,
) -> None:
    loop.call_soon_threadsafe(stop, f"received {signal.Signals(number).name}")
