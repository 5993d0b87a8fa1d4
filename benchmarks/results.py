"""Writes benchmarks/RESULTS.md: each benchmark that compares systems owns one section of it."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"

PREAMBLE = """# Results

Written by the benchmarks themselves, not by hand: each section names the command that writes it.
A figure is a median; the range of its rounds follows in brackets where there was more than one.
Figures that go against this project stay in.
"""


def write_section(name: str, text: str, path: Path = RESULTS) -> None:
    """Replace the section ``name`` of the file, or append it."""
    before = path.read_text() if path.exists() else PREAMBLE
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    head, found, rest = before.partition(begin)
    if found:
        path.write_text(head + section + rest.partition(end)[2])
    else:
        path.write_text(f"{before.rstrip()}\n\n{section}\n")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned so that it can also be read as plain text."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def middle_and_range(values: Sequence[float], digits: int = 1) -> str:
    """The median, and the range in brackets; "-" without values."""
    if not values:
        return "-"
    text = f"{statistics.median(values):,.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):,.{digits}f} to {max(values):,.{digits}f})"
    return text


def machine() -> str:
    """One paragraph: when, which commit, which machine, and how busy it was."""
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {_commit()}; {_processor()}, "
        f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}; load average at the start "
        f"{os.getloadavg()[0]:.1f} over one minute and {os.getloadavg()[2]:.1f} over fifteen."
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"
