"""Check requirements on every experiment: a resumed run is equal, a broken copy is not valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from axiom_client.run.experiment import load_run
from axiom_client.run.task import Task
from axiom_protocol.result import Result, gate
from tests.science.harness import EXPERIMENTS, experiment, run_once


class Interrupted(Exception):
    """Raised to interrupt a run, as when the agent stops a task."""


def resumed(name: str, seed: int, folder: Path, configs: int, **parameters: Any) -> Result:
    """The result of a run that was stopped after ``configs`` configurations and started again."""
    seen: list[float] = []

    def stop(fraction: float) -> None:
        seen.append(fraction)
        if len(seen) == configs:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_once(name, seed, folder=folder, on_progress=stop, **parameters)
    return run_once(name, seed, folder=folder, **parameters)


def parts(name: str) -> dict[str, Any]:
    """The functions and constants of an experiment's file, freshly loaded."""
    run = load_run((EXPERIMENTS / f"{name}.py").read_text(), name)
    found: dict[str, Any] = run.__globals__
    return found


def twin(name: str, seed: int, folder: Path, replaced: dict[str, Any], **parameters: Any) -> Result:
    """A result of the experiment with some of its functions replaced by broken ones."""
    manifest, own = experiment(name)[0], parts(name)
    own.update(replaced)
    task = Task(
        seed=seed,
        parameters=manifest.resolve(parameters),
        budget_seconds=manifest.expected_seconds,
        folder=folder,
    )
    return gate(manifest, own["run"](task))
