"""Whether somebody uses the computer, and whether it runs on battery."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
from msgspec import Struct

IDLE_SECONDS = (
    180.0  # without a key or a click before nobody is there; BOINC's default is 3 minutes
)


class Presence(Struct, frozen=True, kw_only=True):
    """What was seen."""

    in_use: bool
    has_battery: bool
    on_battery: bool


def probe_presence() -> Presence:
    """One look. A terminal's access time is the last key typed into it (no desktop needed)."""
    battery = _battery()
    return Presence(
        in_use=_seconds_since_input() < IDLE_SECONDS,
        has_battery=battery is not None,
        on_battery=battery is not None and battery.power_plugged is False,
    )


def _battery() -> Any:
    """psutil's facts of the battery, or None: no battery, or a system that cannot say."""
    if not hasattr(psutil, "sensors_battery"):
        return None
    try:
        return psutil.sensors_battery()
    except FileNotFoundError:  # a container, or a kernel without /sys/class/power_supply
        return None


def _seconds_since_input() -> float:
    latest = 0.0
    for user in psutil.users():
        if not user.terminal:
            continue
        try:
            latest = max(latest, (Path("/dev") / user.terminal).stat().st_atime)
        except OSError:
            continue  # a graphical session has no terminal
    return time.time() - latest
