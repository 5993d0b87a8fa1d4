"""Runs the same tasks through our agent and server and through what people would use instead.

    python -m benchmarks.peers [--only axiom,dask] [--rounds 2]        (make peers)

Each system runs on this machine alone, with as many slots as it has cores, one system after the
other: no-ops, five-second tasks, training tasks, an evening's 2,001 workunits in small. A system
that is slow does fewer tasks, so that all together take about ten minutes. The table goes into
benchmarks/RESULTS.md. A system that is not installed is listed with how to install it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import tempfile
from pathlib import Path

from benchmarks.peers import driver
from benchmarks.peers.driver import Driver
from benchmarks.peers.measure import Figures, measure
from benchmarks.peers.tasks import EVENING_TASKS
from benchmarks.results import machine, middle_and_range, table, write_section

ROUNDS = 2
SLOTS_MAX = 8  # more would need longer rounds

#: Label, attribute of Figures, decimals.
ROWS = (
    ("no-ops a second", "noop_per_second", 2),
    ("gap between tasks, p50, ms", "gap_p50_ms", 1),
    ("gap between tasks, p99, ms", "gap_p99_ms", 1),
    ("busy share, 5 s tasks", "busy_share", 4),
    ("torch training tasks a second", "torch_per_second", 2),
    ("first result after the host starts, s", "first_seconds", 2),
    ("last end to results recorded, ms", "recorded_ms", 0),
    ("last end to credit, ms", "credited_ms", 0),
    ("idle host part, MiB", "idle_mib", 1),
    ("idle host part, CPU s a minute", "idle_cpu", 3),
    ("host part with trained torch tasks, MiB", "busy_mib", 0),
    ("one of these tasks, MiB of its own", "task_mib", 1),
    ("server part at the same time, MiB", "server_mib", 0),
)

EXPLANATION = """
One system at a time, all on this machine, {slots} slots, {rounds} rounds of no-ops. Gaps are from a
task's last line to the next task's first line on the same slot; the busy share is of the slots'
time while five-second tasks waited. The first result counts from the start of the host's part, with
the server up and work waiting. Credit: Axiom's is the end of `axiom-server review`, started when
the agent has reported everything and ended (no agent waits for that in practice); BOINC's is that
of our small project, which credits in the request that reports (a real project validates first);
the others have none. The evening is {evening:,} tasks of 0.5 to 150 ms; a slower system did the
part that is named. Memory: PSS of all processes of the host's part, USS of a task's own process.
Dask's tasks share one process and leave it as they found it or not; only Axiom confines a task.
"""


def main() -> None:
    """Measure every system, and write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(driver.NAMES), help="names, with commas")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--patience", type=float, default=1.0, help="factor on all time limits")
    given = parser.parse_args()
    slots = min(os.cpu_count() or 1, SLOTS_MAX)
    where = machine()
    systems = {name: driver.find(name) for name in given.only.split(",")}
    measured, absent = {}, []
    for name, system in systems.items():
        if not system.version():
            absent.append(system)
            continue
        print(f"== {system.name} {system.version()}", flush=True)
        with tempfile.TemporaryDirectory(prefix="axiom-bench-peers-") as folder:
            Path(folder).chmod(0o755)
            measured[name] = measure(name, Path(folder), slots, given.rounds, given.patience)
        print(_one_column(measured[name]), flush=True)
    write_section("peers", _section(where, systems, measured, absent, slots, given.rounds))


def _one_column(figures: Figures) -> str:
    return table(("", ""), _cells([figures]))


def _cells(columns: list[Figures]) -> list[list[str]]:
    rows = [
        [label, *(middle_and_range(getattr(figures, key), digits) for figures in columns)]
        for label, key, digits in ROWS
    ]
    rows.append(["the evening", *(_evening(figures) for figures in columns)])
    if any(figures.trouble for figures in columns):
        rows.append(["not measured, because", *(figures.trouble or "-" for figures in columns)])
    return rows


def _evening(figures: Figures) -> str:
    if figures.evening is None:
        return "-"
    done, seconds = figures.evening
    part = "all" if done == EVENING_TASKS else f"{done} of {EVENING_TASKS:,}"
    return f"{part} in {seconds:.1f} s: {done / seconds:.1f} a second"


def _section(
    where: str, systems: dict[str, type[Driver]], measured: dict[str, Figures],
    absent: list[type[Driver]], slots: int, rounds: int,
) -> str:  # fmt: skip
    found = [systems[name] for name in measured]
    rows = [
        ["version", *(system.version() for system in found)],
        ["isolation", *(system.isolation for system in found)],
        *_cells(list(measured.values())),
    ]
    header = ["", *(system.name for system in found)]
    missing = "".join(f"\n- {s.name}: not installed; {s.install}" for s in absent)
    torch = importlib.metadata.version("torch")
    explained = EXPLANATION.format(slots=slots, rounds=rounds, evening=EVENING_TASKS)
    return "\n".join(
        ["## Peers", "", "`make peers`", "", f"{where} torch {torch}.", explained,
         table(header, rows), missing]
    )  # fmt: skip


if __name__ == "__main__":
    main()
