"""Run an experiment of the library in this process, for science tests."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from axiom_client.run.experiment import Run, load_run
from axiom_client.run.task import Task
from axiom_protocol.manifest import Manifest, read_manifest
from axiom_protocol.result import Result, gate

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@cache
def experiment(name: str) -> tuple[Manifest, Run]:
    """The manifest and the run function of an experiment of the library."""
    source = (EXPERIMENTS / f"{name}.py").read_text()
    return read_manifest(source), load_run(source, name)


def run_once(
    name: str,
    seed: int,
    *,
    budget_seconds: float | None = None,
    folder: Path | None = None,
    on_progress: Callable[[float], None] | None = None,
    **parameters: Any,
) -> Result:
    """One checked result, with the default parameters, and the default budget unless given."""
    manifest, run = experiment(name)
    with tempfile.TemporaryDirectory() as fresh:
        task = Task(
            seed=seed,
            parameters=manifest.resolve(parameters),
            budget_seconds=manifest.expected_seconds if budget_seconds is None else budget_seconds,
            folder=folder or Path(fresh),
            on_progress=on_progress,
        )
        return gate(manifest, run(task))


def compared_run(name: str, seed: int, **given: Any) -> Result:
    """As ``run_once``, but computed once for all tests of this process: what they compare with."""
    return _compared_run(name, seed, json.dumps(given))


@cache
def _compared_run(name: str, seed: int, given: str) -> Result:
    return run_once(name, seed, **json.loads(given))
