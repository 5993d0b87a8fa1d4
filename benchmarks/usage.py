"""Processor time of processes that are measured from outside."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil


def tree_seconds(root: psutil.Process) -> float:
    """Processor seconds of a process and its descendants, with children that have ended."""
    total = sum(root.cpu_times()[:4])
    for child in root.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(child.cpu_times()[:2])
    return float(total)


def database_process(folder: Path) -> psutil.Process:
    """The postmaster of a project's embedded PostgreSQL, which must be running."""
    lines = (folder / "postgres" / "data" / "postmaster.pid").read_text().split()
    return psutil.Process(int(lines[0]))


def serving_seconds() -> float:
    """Processor seconds of the serving processes that this process has started."""
    children = psutil.Process().children()
    return sum(tree_seconds(child) for child in children if "serve" in child.cmdline())
