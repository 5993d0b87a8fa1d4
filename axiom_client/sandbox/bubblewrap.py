"""Applies a policy by bubblewrap, for kernels without Landlock.

Namespaces confine paths, network and access to other processes; the child itself adds resource
limits and seccomp.
"""

from __future__ import annotations

import os
import re
import sys

from axiom_client.sandbox.policy import DriverAccess, Policy


def wrap(
    helper: str, policy: Policy, command: list[str], info_descriptor: int | None = None
) -> list[str]:
    """The command line that runs ``command`` inside bubblewrap. Inherited descriptors stay open.

    Bubblewrap writes the process id of ``command`` to ``info_descriptor``; see ``inner_pid``.
    """
    binds: list[str] = []
    driver = policy.driver or DriverAccess()
    for path in (*_interpreter(), *policy.read_only, *driver.read_only):
        if not path.startswith(("/proc/", "/sys/")):
            binds += ["--ro-bind-try", path, path]
    for path in driver.devices:
        binds += ["--dev-bind-try", path, path]
    sysfs = ["--ro-bind-try", "/sys/devices/system", "/sys/devices/system"]
    return [
        helper,
        "--unshare-all",
        "--die-with-parent",
        "--as-pid-1",  # so that signals reach the task itself
        "--cap-drop", "ALL",
        "--proc", "/proc",
        "--dev", "/dev",
        *sysfs,
        *binds,
        "--bind", policy.folder, policy.folder,
        *(word for path in policy.folders for word in ("--bind", path, path)),
        "--remount-ro", "/dev",  # otherwise /dev/shm and the root file system
        "--remount-ro", "/",  # would be memory that no limit counts
        "--chdir", policy.folder,
        *(() if info_descriptor is None else ("--info-fd", str(info_descriptor))),
        "--",
        *command,
    ]  # fmt: skip


def inner_pid(info: bytes) -> int | None:
    """The confined process's id on the host; None until bubblewrap has written it."""
    found = re.search(rb'"child-pid"\s*:\s*(\d+)', info)
    return int(found[1]) if found else None


def _interpreter() -> list[str]:
    """The interpreter, every symbolic link that leads to it, and the file that marks a venv."""
    paths = [os.path.join(sys.prefix, "pyvenv.cfg")]
    path = sys.executable
    while path not in paths:
        paths.append(path)
        if os.path.islink(path):
            path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    return paths
