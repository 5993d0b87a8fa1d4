"""Whether somebody uses the computer, and whether it runs on battery.

On Linux it looks at keys typed into terminals and at what desktops report to logind. The code for
Windows and macOS is written from their documentation and has not been run on a real system yet.
"""

from __future__ import annotations

import sys
from typing import Any

import psutil
from msgspec import Struct

if sys.platform == "win32":
    from axiom_client.host.windows_input import input_seconds_ago
elif sys.platform == "darwin":
    from axiom_client.host.macos_input import input_seconds_ago
else:
    from axiom_client.host.terminals import input_seconds_ago

IDLE_SECONDS = 180.0  # without input until the computer counts as not in use; BOINC's default


class Presence(Struct, frozen=True, kw_only=True):
    """The result of a probe."""

    in_use: bool
    has_battery: bool
    on_battery: bool


def probe_presence() -> Presence:
    """Probe once."""
    battery = _battery()
    return Presence(
        in_use=input_seconds_ago() < IDLE_SECONDS or _desktop_in_use(),
        has_battery=battery is not None,
        on_battery=battery is not None and battery.power_plugged is False,
    )


def _battery() -> Any:
    """psutil's data about the battery; None if there is none or it cannot be read."""
    if not hasattr(psutil, "sensors_battery"):
        return None
    try:
        return psutil.sensors_battery()
    except FileNotFoundError:  # a container, or a kernel without /sys/class/power_supply
        return None


def _desktop_in_use() -> bool:
    if sys.platform == "linux":
        from axiom_client.host.logind import desktop_in_use

        return bool(desktop_in_use())
    else:  # noqa: RET505  mypy skips a branch, not what follows one
        return False
