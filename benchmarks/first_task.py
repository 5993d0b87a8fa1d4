"""Measures the time from a new volunteer's `attach` to the first line of the first task.

    python -m benchmarks.first_task

A real server on embedded PostgreSQL has work deployed, for numpy and for torch. The time starts
with the command `attach`, includes `run` (self-test of the sandbox, sync, verified download,
zygote) and ends when the agent receives the progress that the experiment reports in its first line.
Every round uses a new host in a new folder. BOINC's figure is that of client 8.0 in the project's
own measurement.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks import load
from benchmarks.common import median, report

ROUNDS = 5
LIMITS = {"numpy_seconds": 2.0, "torch_seconds": 6.0}
BOINC_SECONDS = 17

EXPERIMENT = '''"""First task: reports progress in its first line. For a benchmark only."""
# /// script
# requires-python = ">=3.11"
# dependencies = [{dependencies}]
#
# [tool.axiom]
# name = "first_{environment}"
# version = "1.0.0"
# title = "First task"
# question = "When does a task begin on the host's monotonic clock?"
# resources = {{ cpu_cores = 1, memory_bytes = 500_000_000, disk_bytes = 1_000_000 }}
# expected_seconds = 1
# [tool.axiom.result]
# valid = {{ kind = "flag" }}
# configs_done = {{ kind = "integer" }}
# drawn = {{ min = 0, max = 1 }}
# ///
import {environment}


def run(task):
    task.progress(0.5)
    return {{"valid": 1, "configs_done": 1, "drawn": task.rng(0).random()}}
'''
DEPENDENCIES = {"numpy": '"numpy"', "torch": '"numpy", "torch"'}


def agent(folder: Path, *words: str) -> None:
    """Run one command of the agent to its end."""
    environment = {**os.environ, "AXIOM_CLIENT_DIR": str(folder), "PYTHONPATH": str(load.ROOT)}
    subprocess.run(
        [sys.executable, "-m", "axiom_client", *words],
        env=environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def one_round(project: Path, url: str, environment: str) -> float:
    """Seconds from the command `attach` to the first line of a task."""
    load.staff(project, "deploy", f"first_{environment}", "--count", "1", "--budget", "1")
    with tempfile.TemporaryDirectory(prefix="axiom-bench-first-") as scratch:
        folder, events = Path(scratch) / "agent", Path(scratch) / "events"
        started = time.monotonic()
        agent(folder, "attach", url)
        agent(folder, "run", "--until-idle", "--no-display", "--record-events", str(events))
        for line in events.read_bytes().splitlines():
            event = msgspec.json.decode(line)
            if "fraction" in event:
                return float(event["now"]) - started
    raise RuntimeError(f"first_{environment} reported no progress")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    found: dict[str, list[float]] = {"numpy": [], "torch": []}
    with load.project() as project, tempfile.TemporaryDirectory() as scratch:
        for environment, dependencies in DEPENDENCIES.items():
            script = Path(scratch) / f"first_{environment}.py"
            script.write_text(EXPERIMENT.format(environment=environment, dependencies=dependencies))
            load.staff(project, "publish", str(script))
        with load.serving(project) as port:
            for _ in range(rounds):
                for environment, seconds in found.items():
                    seconds.append(one_round(project, f"http://127.0.0.1:{port}", environment))
    figures = {f"{name}_seconds": median(seconds) for name, seconds in found.items()}
    held = {key: figures[key] < limit for key, limit in LIMITS.items()}
    everything = {f"{name}_all": [round(s, 2) for s in seconds] for name, seconds in found.items()}
    report(
        "first_task",
        {**figures, **everything, "held": held, "load_average": os.getloadavg()[0]},
        {"name": "BOINC client, attach to first line", "seconds": BOINC_SECONDS},
    )


if __name__ == "__main__":
    main()
