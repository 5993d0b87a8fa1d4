"""Loads libraries of Windows and macOS. Every call to these systems goes through here.

Tests put recorded answers in the place of a library.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


@cache
def windows_library(name: str) -> Any:
    """A system library such as "kernel32". Raises OSError where there is none."""
    if sys.platform == "win32":
        return ctypes.WinDLL(name, use_last_error=True)
    else:  # noqa: RET505  mypy skips a branch, not what follows one
        raise OSError(f"this is not Windows: there is no {name}")


def windows_error(doing: str, code: int | None = None) -> OSError:
    """What Windows says about its last error, or about ``code``, with what was being done."""
    number = last_error() if code is None else code
    text = f"cannot {doing}: Windows error {number}"
    if sys.platform == "win32":
        signed = number - (1 << 32) if number >> 31 else number  # as FormatError takes an HRESULT
        text += f", {ctypes.FormatError(signed).strip()}"
    return OSError(number, text)


def last_error() -> int:
    """GetLastError() of the last call of this thread through ``windows_library``."""
    if sys.platform == "win32":
        return ctypes.get_last_error()
    else:  # noqa: RET505
        return 0


@cache
def macos_library(path: str) -> Any:
    """A library or framework by its path. Raises OSError where there is none."""
    return ctypes.CDLL(path, use_errno=True)
