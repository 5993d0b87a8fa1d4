"""Starts, pauses and resumes tasks to match the allocation."""

from __future__ import annotations

import msgspec

from axiom_client.decide import commands as c
from axiom_client.decide.allocate import Allocation, allocate, needs_of
from axiom_client.decide.binding import bind
from axiom_client.decide.blocked import blocked_text
from axiom_client.decide.capacity import Room, room
from axiom_client.decide.cohort import process_needs
from axiom_client.decide.model import AgentState, Bundle, TaskState
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.task import GRACE_SECONDS
from axiom_client.decide.task_run import Member, TaskSpec, limits_for
from axiom_protocol.manifest import Manifest

#: A cohort on a GPU that is slower than this many cores would be counts as hung: ``WALL_MARGIN``.
GPU_CORES = 8


def room_now(state: AgentState) -> Room:
    """The resources that tasks may use now."""
    return room(
        state.facts,
        state.load,
        state.limits,
        blocked=f"stopping: {state.stop.reason}" if state.stop else blocked_text(state),
        gpu_pauses=state.gpu_pauses,
    )


def allocation_now(state: AgentState) -> Allocation:
    """Which tasks would start, pause and resume now."""
    return _allocate(state, room_now(state))


def _allocate(state: AgentState, room: Room) -> Allocation:
    return allocate(state.tasks, state.bundles, room, state.now, state.measured_at)


def place(builder: StepBuilder, room: Room) -> None:
    """Give the commands that make the running tasks match the allocation."""
    state = builder.state
    if state.stop is not None:
        return
    for _, task in sorted(state.tasks.items()):
        if -1 in task.gpus and task.phase in ("running", "paused"):  # its GPU is gone
            builder.advance(task, "stop", keep=True)
            builder.do(c.StopTask(task_id=task.process_id, grace_seconds=GRACE_SECONDS))
    allocation = _allocate(state, room)
    for task_id in allocation.pause:
        task = state.tasks[task_id]
        builder.advance(task, "pause", ran_seconds=ran_seconds(task, state.now))
        if task_id == task.process_id or task.process_id not in allocation.pause:
            builder.do(c.PauseTask(task_id=task.process_id))
    for task_id in allocation.resume:
        task = builder.advance(state.tasks[task_id], "resume", running_since=state.now)
        if task_id == task.process_id or task.process_id not in allocation.resume:
            builder.do(c.ResumeTask(task_id=task.process_id))
    for task_id, gpus in allocation.start:
        members = [state.tasks[member] for member in allocation.members.get(task_id, [])]
        _start(builder, [state.tasks[task_id], *members], gpus)


def ran_seconds(task: TaskState, now: float) -> float:
    """How long the present run of a task has lasted, without pauses."""
    if task.phase in ("running", "stopping"):
        return task.ran_seconds + max(0.0, now - task.running_since)
    return task.ran_seconds


def _start(builder: StepBuilder, tasks: list[TaskState], gpus: list[int]) -> None:
    """Start a task, or a cohort of several in one process."""
    state = builder.state
    first = tasks[0]
    cohort = first.task_id if len(tasks) > 1 else 0
    started = [_started(builder, task, gpus, cohort, len(tasks)) for task in tasks]
    bundle = state.bundles[first.record.grant.sha256]
    assert bundle.manifest is not None  # a task is queued only with its manifest
    builder.do(_start_command(state, started, bundle, bundle.manifest, gpus))
    state.warm = True


def _started(
    builder: StepBuilder, task: TaskState, gpus: list[int], cohort: int, size: int
) -> TaskState:
    record = msgspec.structs.replace(task.record, attempts=task.record.attempts + 1)
    builder.save(record)
    return builder.advance(
        task,
        "start",
        record=record,
        gpus=gpus,
        progress=0.0,
        running_since=builder.state.now,
        cohort=cohort,
        cohort_size=size,
    )


def _start_command(
    state: AgentState, tasks: list[TaskState], bundle: Bundle, manifest: Manifest, gpus: list[int]
) -> c.StartTask:
    task, grant = tasks[0], tasks[0].record.grant
    expected_seconds = max(manifest.expected_seconds, grant.budget_seconds)
    expected_seconds *= max(1.0, len(tasks) / (GPU_CORES if gpus else 1))
    needs = process_needs(task, needs_of(task, state.bundles), state.bundles)
    spec = TaskSpec(
        task_id=grant.task_id,
        experiment=grant.experiment,
        source_path=bundle.path,
        sha256=grant.sha256,
        environment=manifest.environment,
        parameters=bind(grant, manifest),
        seed=grant.seed,
        budget_seconds=grant.budget_seconds,
        limits=limits_for(needs, expected_seconds),
        others=[Member(task_id=t.task_id, seed=t.record.grant.seed) for t in tasks[1:]],
    )
    return c.StartTask(spec=spec, gpus=[state.facts.gpus[i] for i in gpus] if state.facts else [])
