"""Cohorts: tasks of one experiment and parameter set, each with its own seed, share a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from axiom_client.decide.model import Bundle, TaskState
from axiom_client.decide.task import ALIVE
from axiom_protocol.manifest import Cohort, Resources

# After a process failed, its tasks run again in cohorts of a quarter of the size, down to single
# tasks: after four rounds at most, a seed that breaks its process is alone, and its outcome counts.
SHRINK = 4


def cohort_of(task: TaskState, bundles: Mapping[str, Bundle]) -> Cohort | None:
    """The signed bundle's declaration of cohorts; None when it declares none."""
    bundle = bundles.get(task.record.grant.sha256)
    return bundle.manifest.cohort if bundle and bundle.manifest else None


def seeds_max(task: TaskState, bundles: Mapping[str, Bundle]) -> int:
    """The largest number of tasks that may share a process with this one, itself included."""
    cohort = cohort_of(task, bundles)
    if cohort is None:
        return 1
    declared = cohort.most if task.record.grant.device == "gpu" else cohort.most_on_core
    return min(declared, task.record.cohort_most or declared)


def process_needs(task: TaskState, one: Resources, bundles: Mapping[str, Bundle]) -> Resources:
    """The resources of the process that a task runs in, from those of the task alone."""
    cohort = cohort_of(task, bundles)
    return cohort.needs(one, task.cohort_size) if cohort else one


def choose_members(
    first: TaskState,
    later: Sequence[TaskState],
    limit: int,
    fits: Callable[[int], bool],
) -> list[TaskState]:
    """The further members of a cohort that ``first`` begins: as many of ``later`` as fit, in order.

    limit  largest number of members, the first one included
    fits   whether this number of members fits into the free memory
    """
    members = [task for task in later if _can_share(first, task)][: limit - 1]
    while members and not fits(1 + len(members)):
        members.pop()
    return members


def _can_share(one: TaskState, other: TaskState) -> bool:
    """Whether two tasks differ in nothing but the seed, so that one process can run both."""
    a, b = one.record.grant, other.record.grant
    return (
        (a.sha256, a.device, a.parameters, a.budget_seconds)
        == (b.sha256, b.device, b.parameters, b.budget_seconds)
        and one.record.cohort_most == other.record.cohort_most
        and a.seed != b.seed
    )


def lost_together(one: TaskState, other: TaskState) -> bool:
    """Whether two lost tasks may have lost one process: they need not wait for each other."""
    return one.record.attempts == other.record.attempts


def other_members(task: TaskState, tasks: Mapping[int, TaskState]) -> list[TaskState]:
    """The other members of a task's cohort whose process has not ended."""
    return [
        other
        for _, other in sorted(tasks.items())
        if task.cohort
        and other.cohort == task.cohort
        and other.task_id != task.task_id
        and other.phase in ALIVE
    ]
