"""Load an experiment's script in this process and return its ``run`` function."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from axiom_client.run.task import Task

Run = Callable[[Task], Any]


class ExperimentBroken(Exception):
    """The script does not load or does not define run(task)."""


def load_run(source: str, name: str) -> Run:
    """The script's ``run`` function. This executes the script's top level: confine first."""
    module = types.ModuleType(name)
    module.__file__ = f"{name}.py"
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    run: Run | None = module.__dict__.get("run")
    if not callable(run):
        raise ExperimentBroken(f"{name}.py does not define run(task)")
    return run
