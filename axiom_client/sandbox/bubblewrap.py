"""The same policy through bubblewrap, for kernels without Landlock.

Namespaces hold paths, network and other processes; the child itself adds limits and seccomp.
"""

from __future__ import annotations

import os
import sys

from axiom_client.sandbox.policy import Policy


def wrap(helper: str, policy: Policy, command: list[str]) -> list[str]:
    """``command`` with bubblewrap in front. Descriptors that the caller passes on stay open."""
    binds: list[str] = []
    for path in (*_interpreter(), *policy.read_only):
        if not path.startswith(("/proc/", "/sys/")):
            binds += ["--ro-bind-try", path, path]
    for path in policy.devices:
        if path.startswith("/dev/") and policy.gpu:
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
        "--chdir", policy.folder,
        "--",
        *command,
    ]  # fmt: skip


def _interpreter() -> list[str]:
    """The program itself, through every link on the way to it, and what marks a venv."""
    paths = [os.path.join(sys.prefix, "pyvenv.cfg")]
    path = sys.executable
    while path not in paths:
        paths.append(path)
        if os.path.islink(path):
            path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    return paths
