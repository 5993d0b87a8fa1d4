"""When somebody last used an input device of a Mac: HIDIdleTime of IOHIDSystem.

Source: Apple's reference of IOKitLib.h (IOServiceGetMatchingService consumes the matching
dictionary; 0 is no service) and CoreFoundation (CFString.h, CFNumber.h).
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

from axiom_client.host import terminals
from axiom_client.system import libraries

_IOKIT = "/System/Library/Frameworks/IOKit.framework/IOKit"
_CORE = "/System/Library/Frameworks/CoreFoundation.framework/CoreFoundation"
_UTF8 = 0x0800_0100  # kCFStringEncodingUTF8
_SINT64 = 4  # kCFNumberSInt64Type


def input_seconds_ago() -> float:
    """Seconds since the last event of any input device, or since a key in a terminal."""
    return min(terminals.input_seconds_ago(), _hid_seconds())


def _hid_seconds() -> float:
    """Seconds since the last event; infinite if macOS does not say it."""
    kit, core = libraries.macos_library(_IOKIT), libraries.macos_library(_CORE)
    _declare(kit, core)
    service = kit.IOServiceGetMatchingService(0, kit.IOServiceMatching(b"IOHIDSystem"))
    if not service:
        return math.inf
    key = core.CFStringCreateWithCString(None, b"HIDIdleTime", _UTF8)
    number = kit.IORegistryEntryCreateCFProperty(service, key, None, 0)
    core.CFRelease(key)
    kit.IOObjectRelease(service)
    if not number:
        return math.inf
    nanoseconds = ctypes.c_longlong()
    exact = core.CFNumberGetValue(number, _SINT64, ctypes.byref(nanoseconds))
    core.CFRelease(number)
    return nanoseconds.value / 1e9 if exact else math.inf


def _declare(kit: Any, core: Any) -> None:
    pointer, number = ctypes.c_void_p, ctypes.c_uint
    kit.IOServiceMatching.restype = pointer
    kit.IOServiceGetMatchingService.argtypes = [number, pointer]
    kit.IORegistryEntryCreateCFProperty.restype = pointer
    kit.IORegistryEntryCreateCFProperty.argtypes = [number, pointer, pointer, number]
    core.CFStringCreateWithCString.restype = pointer
    core.CFStringCreateWithCString.argtypes = [pointer, ctypes.c_char_p, number]
    core.CFNumberGetValue.restype = ctypes.c_bool
    core.CFNumberGetValue.argtypes = [pointer, ctypes.c_int, pointer]
    core.CFRelease.argtypes = [pointer]
