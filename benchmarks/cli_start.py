"""Measures the duration of `axiom-client --help`; the limit is 0.3 s.

    python -m benchmarks.cli_start

It shows wall time, which a user notices, and CPU time, which depends less on other load. The
fastest run counts, since other load can only slow a run down. Python's caches of compiled files
exist, as after the first start. Also shown: the time of the interpreter alone, and the five modules
that take longest to import.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

RUNS = 15
LIMIT_SECONDS = 0.3
PROGRAM = [sys.executable, "-c", "from axiom_client.cli.app import main; main()", "--help"]


def measure(line: list[str]) -> tuple[float, float]:
    """The lowest wall and CPU seconds of the runs."""
    walls, processors = [], []
    for _ in range(RUNS):
        before, started = os.times(), time.monotonic()
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        walls.append(time.monotonic() - started)
        after = os.times()
        used = after.children_user + after.children_system
        processors.append(used - before.children_user - before.children_system)
    return min(walls), min(processors)


def costly_modules(count: int) -> list[tuple[float, str]]:
    """(own milliseconds, module) of the imports that take longest."""
    line = [sys.executable, "-X", "importtime", *PROGRAM[1:]]
    shown = subprocess.run(line, check=True, capture_output=True, text=True).stderr
    rows = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", shown)
    return sorted(((int(own) / 1000, name) for own, name in rows), reverse=True)[:count]


def main() -> None:
    bare = measure([sys.executable, "-c", "pass"])
    wall, processor = measure(PROGRAM)
    print(f"python -c pass        {bare[0] * 1000:6.0f} ms wall  {bare[1] * 1000:6.0f} ms CPU")
    print(f"axiom-client --help   {wall * 1000:6.0f} ms wall  {processor * 1000:6.0f} ms CPU")
    for milliseconds, name in costly_modules(5):
        print(f"  {name:<30} {milliseconds:5.1f} ms")
    print(f"within {LIMIT_SECONDS} s: {'yes' if wall <= LIMIT_SECONDS else 'no'}")


if __name__ == "__main__":
    main()
