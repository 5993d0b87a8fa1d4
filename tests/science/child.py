"""Run an experiment once in a separate process: JSON from stdin, JSON to stdout.

It uses only the runner's Task and schema check, as a volunteer's child does after confining itself.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from axiom_client.run.experiment import load_run
from axiom_client.run.task import Task, TaskStopped
from axiom_protocol.manifest import read_manifest
from axiom_protocol.result import Result, gate

OTHER_SEED = 999  # of the run that warms a process up
LEAST_BUDGET_SECONDS = 1e-9  # one configuration
STOP_AT = 0.1  # of the run, or at the first checkpoint after it


def run(source: str, name: str, task: dict[str, Any], how: str) -> Result:
    """A checked result. ``how`` is one of:

    cold      the process has run nothing before
    warm      the process has just run another seed
    restored  the run is stopped after a checkpoint, as an agent does it, and then continued
    """
    manifest, experiment = read_manifest(source), load_run(source, name)
    with tempfile.TemporaryDirectory() as folder:
        if how == "warm":
            other = task | {"seed": OTHER_SEED, "budget_seconds": LEAST_BUDGET_SECONDS}
            with tempfile.TemporaryDirectory() as elsewhere:
                experiment(Task(folder=Path(elsewhere), **other))
        if how == "restored":
            stop_once(experiment, task, Path(folder))
        return gate(manifest, experiment(Task(folder=Path(folder), **task)))


def stop_once(experiment: Any, task: dict[str, Any], folder: Path) -> None:
    """Start the run and stop it part of the way; its checkpoint stays in the folder."""
    far = False

    def on_progress(fraction: float) -> None:
        nonlocal far
        far = far or fraction >= STOP_AT

    try:
        experiment(
            Task(folder=folder, on_progress=on_progress, stop_requested=lambda _saved: far, **task)
        )
    except TaskStopped:
        return
    raise AssertionError("the run came to its end: it was not stopped")


if __name__ == "__main__":
    print(json.dumps(run(**json.loads(sys.stdin.read()))))
