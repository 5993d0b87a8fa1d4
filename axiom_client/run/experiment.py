"""Loads an experiment's script in this process and returns its ``run`` or ``run_cohort``."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Any

from axiom_client.run.task import Task

Run = Callable[[Task], Any]
RunCohort = Callable[[list[Task]], list[Any]]


class ExperimentBroken(Exception):
    """The script does not load or does not define run(task)."""


def load_run(source: str, name: str, device: str = "cpu") -> Run:
    """The script's ``run`` function. This executes the script's top level: confine first.

    On a CUDA device, ``run_cohort`` with one task takes its place where the script defines it: it
    is written for GPUs, and ``publish`` has compared both.
    """
    module = _load(source, name)
    run: Run = _function(module, name, "run", "task")
    if device.startswith("cuda") and callable(module.get("run_cohort")):
        return partial(_run_one, module["run_cohort"])
    return run


def load_run_cohort(source: str, name: str) -> RunCohort:
    """The script's ``run_cohort`` function; as ``load_run``."""
    run_cohort: RunCohort = _function(_load(source, name), name, "run_cohort", "tasks")
    return run_cohort


def _run_one(run_cohort: RunCohort, task: Task) -> Any:
    (result,) = run_cohort([task])
    if isinstance(result, Exception):
        raise result
    return result


def _load(source: str, name: str) -> dict[str, Any]:
    module = types.ModuleType(name)
    module.__file__ = f"{name}.py"
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    return module.__dict__


def _function(module: dict[str, Any], name: str, function: str, argument: str) -> Any:
    found = module.get(function)
    if not callable(found):
        raise ExperimentBroken(f"{name}.py does not define {function}({argument})")
    return found
