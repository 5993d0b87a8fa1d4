"""Writes the tables of docs/performance.md: where time and memory go, and what the floors are.

    python -m benchmarks.profiles [--only sync,agent,review] [--results 1000000]     (make profile)

Some minutes, most of them for the review of a million results, which is the size of the aim.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import load
from benchmarks.profiles import agent, review, sync
from benchmarks.results import machine, write_section

DOCUMENT = load.ROOT / "docs" / "performance.md"
RESULTS = 1_000_000


def write(name: str, tables: str, where: str, document: Path = DOCUMENT) -> None:
    """Replace the tables of one part."""
    write_section(name, f"{where}\n\n{tables}", document)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="sync,agent,review")
    parser.add_argument("--results", type=int, default=RESULTS, help="in the review")
    given = parser.parse_args()
    parts = {
        "sync": sync.tables,
        "agent": agent.tables,
        "review": lambda: review.tables(given.results),
    }
    for name in given.only.split(","):
        where = machine()
        tables = parts[name]()
        print(tables, flush=True)
        write(name, tables, where)


if __name__ == "__main__":
    main()
