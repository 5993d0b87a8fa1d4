"""When somebody last typed into a terminal of a Unix-like system."""

from __future__ import annotations

import math
import time
from pathlib import Path

import psutil


def input_seconds_ago() -> float:
    """Seconds since a key was typed into any terminal, which sets its access time."""
    latest = -math.inf
    for user in psutil.users():
        if not user.terminal:
            continue
        try:
            latest = max(latest, (Path("/dev") / user.terminal).stat().st_atime)
        except OSError:
            continue  # a graphical session has no terminal
    return time.time() - latest
