"""The C library's ``syscall`` and ``prctl``, and the one error of the sandbox."""

from __future__ import annotations

import ctypes
import errno
import os
import platform


class SandboxError(Exception):
    """The kernel would not confine this process; the message says what failed. No work is run."""


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_LIBC_HOLDING_THE_GIL = ctypes.PyDLL(None, use_errno=True)


#: The few calls that have no function in the C library (or not in every one), by processor.
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
    """One system call; its result, or -errno. Whole numbers are passed as 64 bits."""
    number = _SAME_EVERYWHERE.get(name) or _NUMBERS.get(platform.machine(), {}).get(name)
    if number is None:
        return -errno.ENOSYS
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = _LIBC.syscall(ctypes.c_long(number), *converted)
    return result if result >= 0 else -ctypes.get_errno()


def call(name: str, *arguments: int | bytes | None, doing: str) -> int:
    """One system call that must succeed. Raises SandboxError naming what was being done."""
    result = raw(name, *arguments)
    if result < 0:
        raise SandboxError(f"cannot {doing}: {os.strerror(-result)}")
    return result


def fork() -> int:
    """fork(2) without the handlers that Python's libraries have registered for it.

    Those of threading, logging and torch touch 290 pages of every child, 3 ms of its time, to make
    good what only other threads could have left behind. Right for a process with one thread, whose
    child seeds its generators itself. Raises OSError.
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
