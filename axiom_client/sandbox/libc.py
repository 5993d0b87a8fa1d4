"""System calls through the C library, and the error that the sandbox raises."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys

assert sys.platform == "linux"

from axiom_client.sandbox.errors import SandboxError

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_LIBC_HOLDING_THE_GIL = ctypes.PyDLL(None, use_errno=True)


#: Numbers of the calls that not every C library has a function for, by processor.
_NUMBERS: dict[str, dict[str, int]] = {
    "x86_64": {
        "capget": 125, "capset": 126, "prctl": 157, "ioprio_set": 251, "unshare": 272,
        "process_vm_readv": 310, "seccomp": 317,
    },
    "aarch64": {
        "capget": 90, "capset": 91, "prctl": 167, "ioprio_set": 30, "unshare": 97,
        "process_vm_readv": 270, "seccomp": 277,
    },
}  # fmt: skip
_SAME_EVERYWHERE = {
    "landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446,
}  # fmt: skip


def raw(name: str, *arguments: int | bytes | None) -> int:
    """Make one system call; returns its result, or -errno. Integers are passed as 64 bits."""
    number = _SAME_EVERYWHERE.get(name) or _NUMBERS.get(platform.machine(), {}).get(name)
    if number is None:
        return -errno.ENOSYS
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = _LIBC.syscall(ctypes.c_long(number), *converted)
    return result if result >= 0 else -ctypes.get_errno()


def call(name: str, *arguments: int | bytes | None, doing: str) -> int:
    """Make one system call that must succeed. Raises SandboxError with what was being done."""
    result = raw(name, *arguments)
    if result < 0:
        raise SandboxError(f"cannot {doing}: {os.strerror(-result)}")
    return result


def fork() -> int:
    """fork(2) without the handlers that Python's libraries have registered for it.

    The handlers of threading, logging and torch repair what other threads may have left locked, and
    write to 290 pages of every child (3 ms). They are not needed in a process with one thread whose
    child seeds its own random generators. Raises OSError.
    """
    pid: int = _LIBC_HOLDING_THE_GIL.fork()
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return pid


def prctl(option: int, first: int = 0, second: int = 0, *, doing: str) -> None:
    """prctl(2) that must succeed. Raises SandboxError."""
    arguments = (ctypes.c_ulong(value) for value in (first, second, 0, 0))
    if _LIBC.prctl(ctypes.c_int(option), *arguments) != 0:
        raise SandboxError(f"cannot {doing}: {os.strerror(ctypes.get_errno())}")
