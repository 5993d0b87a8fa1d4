"""Loads an experiment's script in this process and returns its ``run`` or ``run_cohort``."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from axiom_client.run.task import Task

Run = Callable[[Task], Any]
RunCohort = Callable[[list[Task]], list[Any]]


class ExperimentBroken(Exception):
    """The script does not load or does not define run(task)."""


def load_run(source: str, name: str) -> Run:
    """The script's ``run`` function. This executes the script's top level: confine first."""
    run: Run = _load(source, name, "run", "task")
    return run


def load_run_cohort(source: str, name: str) -> RunCohort:
    """The script's ``run_cohort`` function; as ``load_run``."""
    run_cohort: RunCohort = _load(source, name, "run_cohort", "tasks")
    return run_cohort


def _load(source: str, name: str, function: str, argument: str) -> Any:
    module = types.ModuleType(name)
    module.__file__ = f"{name}.py"
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    found = module.__dict__.get(function)
    if not callable(found):
        raise ExperimentBroken(f"{name}.py does not define {function}({argument})")
    return found
