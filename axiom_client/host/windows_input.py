"""When somebody last used the keyboard or the mouse of a Windows computer.

Source: Microsoft's reference of GetLastInputInfo (winuser.h), GetTickCount (sysinfoapi.h) and
ProcessIdToSessionId (processthreadsapi.h). GetLastInputInfo knows only the session of its caller. A
service runs in session 0, which nobody types into: there, whether somebody uses the computer is
asked of WTSQuerySessionInformation (wtsapi32.h, WTSINFOEX), which knows whether it is locked.
"""

from __future__ import annotations

import ctypes
import math
import os

from axiom_client.system import libraries

_SERVICES_SESSION = 0
_NO_SESSION = 0xFFFFFFFF  # WTSGetActiveConsoleSessionId: nobody is at the console
_SESSION_INFO_EX = 25  # WTS_INFO_CLASS.WTSSessionInfoEx
_ACTIVE, _UNLOCKED = 0, 1  # WTSActive; WTS_SESSIONSTATE_UNLOCK


class _LastInput(ctypes.Structure):
    """LASTINPUTINFO."""

    _fields_ = (("cbSize", ctypes.c_uint32), ("dwTime", ctypes.c_uint32))


class _SessionInfo(ctypes.Structure):
    """The start of WTSINFOEXW with its WTSINFOEX_LEVEL1_W, which is aligned to 8 bytes."""

    _fields_ = (
        ("Level", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("SessionId", ctypes.c_uint32),
        ("SessionState", ctypes.c_int32),
        ("SessionFlags", ctypes.c_int32),
    )


def input_seconds_ago() -> float:
    """Seconds since the last input; infinite if none is known."""
    if _own_session() != _SERVICES_SESSION:
        return _seconds_in_this_session()
    return 0.0 if _console_in_use() else math.inf


def _seconds_in_this_session() -> float:
    info = _LastInput(ctypes.sizeof(_LastInput), 0)
    if not libraries.windows_library("user32").GetLastInputInfo(ctypes.byref(info)):
        return math.inf
    now_ms = libraries.windows_library("kernel32").GetTickCount()
    return float((now_ms - info.dwTime) & 0xFFFF_FFFF) / 1000  # both wrap after 49 days


def _own_session() -> int:
    """The session of this process; not that of services where Windows does not say it."""
    session = ctypes.c_uint32(0)
    kernel = libraries.windows_library("kernel32")
    known = kernel.ProcessIdToSessionId(ctypes.c_uint32(os.getpid()), ctypes.byref(session))
    return session.value if known else _SERVICES_SESSION + 1


def _console_in_use() -> bool:
    """Whether somebody is logged in at the console and has not locked it."""
    session = libraries.windows_library("kernel32").WTSGetActiveConsoleSessionId()
    if session & 0xFFFF_FFFF == _NO_SESSION:
        return False
    terminals = libraries.windows_library("wtsapi32")
    info, size = ctypes.POINTER(_SessionInfo)(), ctypes.c_uint32(0)
    if not terminals.WTSQuerySessionInformationW(
        None, ctypes.c_uint32(session), _SESSION_INFO_EX, ctypes.byref(info), ctypes.byref(size)
    ):
        return False
    found = info.contents
    in_use = (found.SessionState, found.SessionFlags) == (_ACTIVE, _UNLOCKED)
    terminals.WTSFreeMemory(info)
    return in_use
