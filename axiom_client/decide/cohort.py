"""Cohorts: tasks of one experiment and parameter set, each with its own seed, share a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from axiom_client.decide.model import Bundle, TaskState
from axiom_client.decide.task import ALIVE
from axiom_protocol.manifest import Cohort, Resources

# A cohort whose process ended badly is tried again in cohorts of a quarter, down to single tasks:
# four rounds at most, and a seed that breaks its process is alone when its outcome counts.
SHRINK = 4


def cohort_of(task: TaskState, bundles: Mapping[str, Bundle]) -> Cohort | None:
    """What the signed bundle says of cohorts; None when it offers none."""
    bundle = bundles.get(task.record.grant.sha256)
    return bundle.manifest.cohort if bundle and bundle.manifest else None


def seeds_max(task: TaskState, bundles: Mapping[str, Bundle]) -> int:
    """The most tasks that may share a process with this one, itself included."""
    cohort = cohort_of(task, bundles)
    if cohort is None:
        return 1
    most = cohort.most if task.record.grant.device == "gpu" else cohort.most_on_core
    return min(most, task.record.cohort_most or most)


def process_needs(task: TaskState, one: Resources, bundles: Mapping[str, Bundle]) -> Resources:
    """The resources of the process that a task runs in, from those of the task alone."""
    cohort = cohort_of(task, bundles)
    return cohort.needs(one, task.cohort_size) if cohort and task.cohort_size > 1 else one


def choose_mates(
    first: TaskState,
    later: Sequence[TaskState],
    most: int,
    fits: Callable[[int], bool],
) -> list[TaskState]:
    """The tasks that start with ``first``: as many of ``later`` as fit, in order.

    fits  whether so many seeds fit into the free memory
    """
    alike = [task for task in later if _alike(first, task)][: most - 1]
    while alike and not fits(1 + len(alike)):
        alike.pop()
    return alike


def _alike(one: TaskState, other: TaskState) -> bool:
    a, b = one.record.grant, other.record.grant
    return (
        (a.sha256, a.device, a.parameters, a.budget_seconds)
        == (b.sha256, b.device, b.parameters, b.budget_seconds)
        and one.record.cohort_most == other.record.cohort_most
        and a.seed != b.seed
    )


def mates(task: TaskState, tasks: Mapping[int, TaskState]) -> list[TaskState]:
    """The other tasks that are alive in the same process."""
    return [
        other
        for _, other in sorted(tasks.items())
        if task.cohort
        and other.cohort == task.cohort
        and other.task_id != task.task_id
        and other.phase in ALIVE
    ]
