"""The limits that cgroups (version 1 or 2) of containers, Slurm or systemd set for this process.

A limit applies to a folder and everything below it, so the lowest limit among a folder and its
parents is in force.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from msgspec import Struct

LISTING = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")
UNLIMITED_BYTES = 1 << 60  # version 1 writes "no limit" as a number near 2^63

Controller = Literal["cpu", "memory"]


class MemoryLimit(Struct, frozen=True, kw_only=True):
    """``used_bytes`` does not include cached files, which the kernel drops when needed."""

    limit_bytes: int
    used_bytes: int


def levels(controller: Controller, listing: Path = LISTING, root: Path = ROOT) -> list[Path]:
    """The folders whose limits apply, from this process's own up to the root of its tree."""
    try:
        lines = listing.read_text().splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for line in lines:
        _, names, path = line.split(":", 2)
        if not names:
            trees = [root, root / "unified"]
        elif controller in names.split(","):
            trees = [root / names, root / controller]
        else:
            continue
        tree = next((t for t in trees if _is_tree(t, versioned=bool(names))), None)
        if tree is not None:
            found += _upwards(tree, tree / path.lstrip("/"))
    return found


def cpu_quota(folders: list[Path]) -> float | None:
    """The lowest quota in cores; None if there is none."""
    return min(filter(None, map(_quota, folders)), default=None)


def memory_limit(folders: list[Path]) -> MemoryLimit | None:
    """The lowest limit; None if there is none."""
    limits = [found for folder in folders if (found := _memory(folder)) is not None]
    return min(limits, key=lambda found: found.limit_bytes, default=None)


def _is_tree(folder: Path, *, versioned: bool) -> bool:
    """Version 2 lists its controllers at the root; version 1 has a tree for each."""
    return folder.is_dir() and (versioned or (folder / "cgroup.controllers").exists())


def _upwards(tree: Path, folder: Path) -> list[Path]:
    """``folder`` and its parents up to ``tree``; only ``tree`` if the listing names a path of the
    host that a container cannot see."""
    if not folder.is_dir() or not folder.resolve().is_relative_to(tree.resolve()):
        return [tree]
    return [folder, *(p for p in folder.parents if p.is_relative_to(tree))]


def _quota(folder: Path) -> float | None:
    if (words := _read(folder / "cpu.max").split()) and len(words) == 2:
        quota, period = _number(words[0]), _number(words[1])
    else:
        quota = _number(_read(folder / "cpu.cfs_quota_us"))  # -1: none
        period = _number(_read(folder / "cpu.cfs_period_us"))
    return quota / period if quota and period and quota > 0 else None


def _memory(folder: Path) -> MemoryLimit | None:
    for limit_name, used_name, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit = _number(_read(folder / limit_name))
        if limit is not None and limit < UNLIMITED_BYTES:
            used = _number(_read(folder / used_name)) or 0
            stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines() if line)
            free_at_once = _number(stat.get(cached, "")) or 0
            return MemoryLimit(limit_bytes=limit, used_bytes=max(0, used - free_at_once))
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:  # absent, or the word "max"
        return None
