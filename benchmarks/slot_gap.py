"""Measures how long a slot is idle between two tasks, with the whole agent and a real server.

    python -m benchmarks.slot_gap

It runs a real `axiom-server` on embedded PostgreSQL and a real `axiom-client run` with its journal.
Each task records the monotonic clock in its first and in its last line; the gap is the time from
the last line of one task to the first line of the next on the same slot. The agent is made to see
as many cores as the benchmark has slots, since the machine may have fewer. BOINC's figures are
those of client 8.0 in the project's own measurement; it reaps and starts at most one task a second.
"""

from __future__ import annotations

import argparse
import heapq
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import load
from benchmarks.common import median, report

ROUNDS_SHORT = 7
ROUNDS_LONG = 3  # each takes over a minute
SLOTS_SHORT, TASKS_SHORT = 2, 400
SLOTS_LONG, TASKS_LONG, SLEEP_SECONDS = 16, 200, 5.0
BOINC = {"gap_ms_p50": 2020, "gap_ms_p99": 2040, "busy_share": 0.32}

EXPERIMENT = '''"""Slot gap: records when a task begins and ends. For a benchmark only."""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "torch"]
#
# [tool.axiom]
# name = "slot_gap"
# version = "1.0.0"
# title = "Slot gap"
# question = "When does a task begin and end on the host's monotonic clock?"
# resources = { cpu_cores = 1, memory_bytes = 100_000_000, disk_bytes = 1_000_000 }
# expected_seconds = 1
# [tool.axiom.result]
# valid = { kind = "flag" }
# configs_done = { kind = "integer" }
# began = { unit = "s" }
# ended = { unit = "s" }
# ///
import time


def run(task):
    began = time.monotonic()
    if task.budget_seconds >= 1:  # a smaller budget means: do nothing
        time.sleep(task.budget_seconds)
    return {"valid": 1, "configs_done": 1, "began": began, "ended": time.monotonic()}
'''

#: The unchanged agent, on a machine that seems to have the given number of cores.
AGENT = """
import os, sys
import psutil
cores = int(sys.argv.pop(1))
psutil.cpu_count = lambda logical=True: cores
os.sched_getaffinity = lambda pid: set(range(cores))
from axiom_client.cli.app import main
main()
"""


def agent_command(folder: Path, slots: int) -> tuple[list[str], dict[str, str]]:
    """The command line of the agent without its own words, and its environment."""
    environment = {**os.environ, "AXIOM_CLIENT_DIR": str(folder), "PYTHONPATH": str(load.ROOT)}
    return [sys.executable, "-c", AGENT, str(slots)], environment


def one_round(slots: int, tasks: int, sleep_seconds: float) -> list[Any]:
    """(began, ended) of all tasks of one run of the agent, in order of their beginning.

    Each round has a project of its own: in a shared one, the next round's host would also be given
    replicas of the last one's tasks.
    """
    budget = str(max(sleep_seconds, 0.001))
    with load.project() as project, tempfile.TemporaryDirectory(prefix="axiom-bench-") as scratch:
        script = Path(scratch) / "slot_gap.py"
        script.write_text(EXPERIMENT)
        load.staff(project, "publish", "--skip", "dry-run", str(script))
        load.staff(project, "deploy", "slot_gap", "--count", str(tasks), "--budget", budget)
        agent, events = Path(scratch) / "agent", Path(scratch) / "events"
        with load.serving(project) as port:
            line, environment = agent_command(agent, slots)
            load.join_and_vouch(project, [*line, "attach", f"http://127.0.0.1:{port}"], environment)
            run = [*line, "run", "--until-idle", "--no-display", "--record-events", str(events)]
            subprocess.run(run, env=environment, check=True, stdout=subprocess.DEVNULL)
        spans = [
            (result["began"], result["ended"])
            for event in map(msgspec.json.decode, events.read_bytes().splitlines())
            if event.get("type") == "TaskEnded" and (result := event["finished"].get("result"))
        ]
    if len(spans) != tasks:
        raise RuntimeError(f"{len(spans)} of {tasks} tasks gave a result")
    return sorted(spans)


def gaps(spans: list[tuple[float, float]], slots: int) -> list[float]:
    """Seconds from the end of each task to the beginning of the next on the same slot, sorted."""
    free: list[float] = []
    found = []
    for index, (began, ended) in enumerate(spans):
        if index >= slots:
            found.append(began - heapq.heappop(free))
        heapq.heappush(free, ended)
    return sorted(found)


def busy_share(spans: list[tuple[float, float]], slots: int) -> float:
    """The share of the slots' time in which a task ran, from the first beginning to the last.

    Later there is no task left to begin: 200 tasks leave half of 16 slots without one at the end,
    so that no agent could exceed 0.9615 over the whole time.
    """
    start, stop = spans[0][0], spans[-1][0]
    busy = sum(min(ended, stop) - began for began, ended in spans)
    return busy / (slots * (stop - start))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, help="of either kind; use fewer for trials only")
    wanted = parser.parse_args().rounds
    middle, late, busy = [], [], []
    for index in range(wanted or ROUNDS_SHORT):
        found = gaps(one_round(SLOTS_SHORT, TASKS_SHORT, 0.0), SLOTS_SHORT)
        middle.append(1000 * found[len(found) // 2])
        late.append(1000 * found[len(found) * 99 // 100])
        if index < (wanted or ROUNDS_LONG):
            busy.append(busy_share(one_round(SLOTS_LONG, TASKS_LONG, SLEEP_SECONDS), SLOTS_LONG))
    report(
        "slot_gap",
        {
            "gap_ms_p50": median(middle),
            "gap_ms_p99": median(late),
            "busy_share": median(busy),
            "load_average": os.getloadavg()[0],
        },
        {"name": "BOINC client, one start a second", **BOINC},
    )


if __name__ == "__main__":
    main()
