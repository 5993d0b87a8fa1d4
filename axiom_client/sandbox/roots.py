"""The folders that every Python program of this installation must be able to read."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from functools import cache
from pathlib import Path

#: Shared libraries of the system, and the files from which numpy and torch learn about the machine.
_SYSTEM = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache",
    "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu", "/sys/devices/system/node",
) if sys.platform == "linux" else ()  # fmt: skip
_LIBRARIES = ("numpy", "torch", "msgspec")
_OWN_PACKAGES = ("axiom_client", "axiom_protocol")


def package_folder(name: str) -> Path | None:
    """The folder of an importable top-level package, found without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


@cache
def read_only_roots() -> tuple[str, ...]:
    """Standard library, site-packages, this package's own folders and shared libraries.

    Not the whole prefix: a virtual environment may contain a project or a home folder.
    """
    paths = sysconfig.get_paths()
    found = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {os.path.join(prefix, "lib") for prefix in (sys.base_prefix, sys.base_exec_prefix)}
    if sys.platform == "win32":
        found = {sys.base_prefix, *found}  # python.exe and its DLLs
    for name in _LIBRARIES:
        if (folder := package_folder(name)) is not None:
            found.add(str(folder.parent))
    for name in _OWN_PACKAGES:
        if (folder := package_folder(name)) is not None:
            found.add(str(folder))
    return tuple(sorted({os.path.realpath(path) for path in found} | set(_SYSTEM)))


def import_paths() -> tuple[str, ...]:
    """What an isolated interpreter must add to ``sys.path`` to import the packages above."""
    found = (package_folder(name) for name in (*_OWN_PACKAGES, *_LIBRARIES))
    return tuple(dict.fromkeys(str(folder.parent) for folder in found if folder is not None))
