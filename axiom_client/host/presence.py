"""Whether somebody uses the computer, and whether it runs on battery.

On Linux it looks at keys typed into terminals and at what desktops report to logind. The code for
Windows and macOS is written from their documentation and has not been run on a real system yet.
"""

from __future__ import annotations

import ctypes
import math
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from msgspec import Struct

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
        in_use=_input_seconds_ago() < IDLE_SECONDS or _desktop_in_use(),
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
    if sys.platform != "linux":
        return False
    from axiom_client.host.logind import desktop_in_use

    return bool(desktop_in_use())


def _input_seconds_ago() -> float:
    """Seconds since the last known key press or click; infinite if none is known."""
    if sys.platform == "win32":
        return _windows_seconds()
    return min(_terminal_seconds(), _mac_seconds() if sys.platform == "darwin" else math.inf)


def _terminal_seconds() -> float:
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


def _windows_seconds() -> float:
    """GetLastInputInfo knows only this session, so a service, which has its own, sees no input."""

    class LastInput(ctypes.Structure):
        _fields_ = (("size", ctypes.c_uint), ("tick_ms", ctypes.c_uint))

    system: Any = getattr(ctypes, "windll")  # noqa: B009 (mypy knows no windll elsewhere)
    info = LastInput(ctypes.sizeof(LastInput), 0)
    if not system.user32.GetLastInputInfo(ctypes.byref(info)):
        return math.inf
    now_ms = system.kernel32.GetTickCount()
    return float((now_ms - info.tick_ms) & 0xFFFF_FFFF) / 1000  # both wrap after 49 days


def _mac_seconds() -> float:
    """HIDIdleTime of IOHIDSystem, nanoseconds since the last event of any input device."""
    kit = ctypes.CDLL("/System/Library/Frameworks/IOKit.framework/IOKit")
    core = ctypes.CDLL("/System/Library/Frameworks/CoreFoundation.framework/CoreFoundation")
    for function in (kit.IOServiceMatching, kit.IORegistryEntryCreateCFProperty,
                     core.CFStringCreateWithCString):  # fmt: skip
        function.restype = ctypes.c_void_p
    kit.IOServiceGetMatchingService.argtypes = [ctypes.c_uint, ctypes.c_void_p]
    kit.IORegistryEntryCreateCFProperty.argtypes = [
        ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint,
    ]  # fmt: skip
    core.CFStringCreateWithCString.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint]
    core.CFNumberGetValue.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    core.CFRelease.argtypes = [ctypes.c_void_p]
    service = kit.IOServiceGetMatchingService(0, kit.IOServiceMatching(b"IOHIDSystem"))
    key = core.CFStringCreateWithCString(None, b"HIDIdleTime", _UTF8)
    number = kit.IORegistryEntryCreateCFProperty(service, key, None, 0)
    core.CFRelease(key)
    kit.IOObjectRelease(service)
    if not number:
        return math.inf
    nanoseconds = ctypes.c_longlong()
    core.CFNumberGetValue(number, _SINT64, ctypes.byref(nanoseconds))
    core.CFRelease(number)
    return nanoseconds.value / 1e9


_UTF8 = 0x0800_0100  # kCFStringEncodingUTF8
_SINT64 = 4  # kCFNumberSInt64Type
