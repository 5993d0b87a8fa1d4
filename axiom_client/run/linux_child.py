"""Confines a task's process on Linux: Landlock, then the libraries, then limits and seccomp.

Memory is counted from the same point in forked and cold children: after the libraries are loaded.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

from axiom_client.run.channel import Assignment
from axiom_client.run.child import seed_libraries, text_output
from axiom_client.sandbox import linux, process, seccomp
from axiom_client.sandbox.limits import MemoryGauge


def confine_forked(assignment: Assignment, program: seccomp.Template) -> None:
    """Confine a zygote's child. ``program`` is that of a task without a GPU, built in advance."""
    gauge = MemoryGauge()
    _confine_paths(assignment, gauge)
    _confine_calls(assignment, gauge, program)


def confine_cold(assignment: Assignment) -> None:
    """Confine a new interpreter, and import the libraries while it is half confined."""
    from axiom_client.run import libraries

    gauge = MemoryGauge()
    if assignment.policy.background:
        process.lower_session_priority()
    _confine_paths(assignment, gauge)
    libraries.load(assignment.environment)
    _confine_calls(assignment, gauge, None)


def _confine_paths(assignment: Assignment, gauge: MemoryGauge) -> None:
    process.stay_on(assignment.policy.cores)
    if assignment.landlock:
        linux.confine_paths(assignment.policy, gauge)
    else:
        linux.lower_priority_and_close_files(assignment.policy, gauge)


def _confine_calls(
    assignment: Assignment, gauge: MemoryGauge, program: seccomp.Template | None
) -> None:
    seed_libraries(assignment.seed)
    sys.stdout, sys.stderr = text_output(1), text_output(2)
    cpu_only = assignment.policy.driver is None
    linux.confine_calls(assignment.policy, gauge, program if cpu_only else None)
