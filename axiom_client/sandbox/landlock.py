"""Landlock: limits the paths that a process may open; forbids TCP, abstract sockets and signals.

Only ``abi_version`` asks whether the kernel supports it. Source: linux/landlock.h and
Documentation/userspace-api/landlock.rst; ABI 1 is Linux 5.13, 4 (TCP) 6.7, 6 (signals) 6.12.
seccomp also refuses what an older ABI does not cover, so any ABI from 1 on is enough.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
from functools import lru_cache

assert sys.platform == "linux"

from axiom_client.sandbox.libc import call, raw
from axiom_client.sandbox.policy import DriverAccess, Policy

_CREATE_VERSION = 1
_RULE_PATH_BENEATH = 1

# LANDLOCK_ACCESS_FS_*
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
_HANDLED_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}

_NET_TCP = 0b11  # bind, connect
_SCOPE_ABSTRACT_UNIX_AND_SIGNAL = 0b11

_READ = _READ_FILE | _READ_DIR
_OWN = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
_THREAD_NAMES = _READ | _WRITE_FILE | _TRUNCATE  # libcuda opens them as fopen(..., "w") does
#: All that a file, as opposed to a folder, may be given.
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE


def abi_version() -> int:
    """The kernel's Landlock ABI version; 0 when Landlock is missing or disabled."""
    return max(0, raw("landlock_create_ruleset", None, 0, _CREATE_VERSION))


def handled(abi: int) -> bytes:
    """struct landlock_ruleset_attr: every access right that this ABI can restrict."""
    filesystem = _HANDLED_BY_ABI[max(v for v in _HANDLED_BY_ABI if v <= abi)]
    net = _NET_TCP if abi >= 4 else 0
    scoped = _SCOPE_ABSTRACT_UNIX_AND_SIGNAL if abi >= 6 else 0
    return struct.pack("=QQQ", filesystem, net, scoped)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]


def rules(policy: Policy) -> list[tuple[str, int]]:
    """(path, rights) for each path that the policy names."""
    device = _READ_FILE | _WRITE_FILE
    driver = policy.driver or DriverAccess()
    return [
        *((path, _READ) for path in (*policy.read_only, *driver.read_only)),
        *((path, device) for path in policy.devices),
        *((path, device | _IOCTL_DEVICE) for path in driver.devices),
    ]


def own_rules(policy: Policy) -> list[tuple[str, int]]:
    """As ``rules``, for the paths that differ from process to process."""
    names_threads = policy.driver is not None and policy.driver.names_threads
    threads = [("/proc/self", _READ), ("/proc/self/task", _THREAD_NAMES)] if names_threads else []
    return [*((path, _OWN) for path in (policy.folder, *policy.folders)), *threads]


def prepare(abi: int, policy: Policy) -> int:
    """The descriptor of a ruleset with the policy's rules; missing paths grant nothing."""
    attributes = handled(abi)
    ruleset = call(
        "landlock_create_ruleset", attributes, len(attributes), 0, doing="make a Landlock ruleset"
    )
    for rule in (
        *opened_shared_rules(abi, tuple(rules(policy))),
        *_opened(abi, tuple(own_rules(policy))),
    ):
        call(
            "landlock_add_rule", ruleset, _RULE_PATH_BENEATH, rule, 0,
            doing="grant a path by Landlock",
        )  # fmt: skip
    return ruleset


@lru_cache(maxsize=4)  # without and with a GPU
def opened_shared_rules(abi: int, paths: tuple[tuple[str, int], ...]) -> tuple[bytes, ...]:
    """As ``_opened``, cached: forked children reuse the descriptors that the zygote opened."""
    return _opened(abi, paths)


def _opened(abi: int, paths: tuple[tuple[str, int], ...]) -> tuple[bytes, ...]:
    """struct landlock_path_beneath_attr for each path that exists and lies beneath no other.

    Their descriptors stay open until ``process.close_others``.
    """
    possible = struct.unpack_from("=Q", handled(abi))[0]
    return tuple(
        struct.pack("=Qi", _rights_for(descriptor, rights & possible), descriptor)
        for path, rights in _outermost(paths)
        if (descriptor := _open(path)) is not None
    )


def _outermost(paths: tuple[tuple[str, int], ...]) -> list[tuple[str, int]]:
    """Without paths below one that grants the same rights: each rule slows a task's start."""
    real = sorted({(os.path.realpath(path), rights) for path, rights in paths})
    return [
        (path, rights)
        for path, rights in real
        if not any(
            rights == others and path != outer and path.startswith(outer.rstrip("/") + "/")
            for outer, others in real
        )
    ]


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None


def _rights_for(descriptor: int, rights: int) -> int:
    return rights if stat.S_ISDIR(os.fstat(descriptor).st_mode) else rights & _FILE_RIGHTS


def restrict(ruleset: int) -> None:
    """Confine the calling process by the ruleset, irrevocably, and close its descriptor."""
    call("landlock_restrict_self", ruleset, 0, doing="restrict the process by Landlock")
    os.close(ruleset)
