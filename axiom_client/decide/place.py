"""Starts, pauses and resumes tasks to match the allocation."""

from __future__ import annotations

import msgspec

from axiom_client.decide import commands as c
from axiom_client.decide.allocate import Allocation, allocate, needs_of
from axiom_client.decide.binding import bind
from axiom_client.decide.blocked import blocked_text
from axiom_client.decide.capacity import Room, room
from axiom_client.decide.model import AgentState, Bundle, TaskState
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.task import GRACE_SECONDS
from axiom_client.decide.task_run import TaskSpec, limits_for
from axiom_protocol.manifest import Manifest


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
            builder.do(c.StopTask(task_id=task.task_id, grace_seconds=GRACE_SECONDS))
    allocation = _allocate(state, room)
    for task_id in allocation.pause:
        task = state.tasks[task_id]
        builder.advance(task, "pause", ran_seconds=ran_seconds(task, state.now))
        builder.do(c.PauseTask(task_id=task_id))
    for task_id in allocation.resume:
        builder.advance(state.tasks[task_id], "resume", running_since=state.now)
        builder.do(c.ResumeTask(task_id=task_id))
    for task_id, gpus in allocation.start:
        _start(builder, state.tasks[task_id], gpus)


def ran_seconds(task: TaskState, now: float) -> float:
    """How long the present run of a task has lasted, without pauses."""
    if task.phase in ("running", "stopping"):
        return task.ran_seconds + max(0.0, now - task.running_since)
    return task.ran_seconds


def _start(builder: StepBuilder, task: TaskState, gpus: list[int]) -> None:
    state = builder.state
    record = msgspec.structs.replace(task.record, attempts=task.record.attempts + 1)
    bundle = state.bundles[record.grant.sha256]
    builder.save(record)
    builder.advance(
        task,
        "start",
        record=record,
        gpus=gpus,
        progress=0.0,
        ran_seconds=0.0,
        running_since=state.now,
    )
    assert bundle.manifest is not None  # a task is queued only with its manifest
    builder.do(_start_command(state, task, bundle, bundle.manifest, gpus))
    state.warm = True


def _start_command(
    state: AgentState, task: TaskState, bundle: Bundle, manifest: Manifest, gpus: list[int]
) -> c.StartTask:
    grant = task.record.grant
    expected_seconds = max(manifest.expected_seconds, grant.budget_seconds)
    spec = TaskSpec(
        task_id=grant.task_id,
        experiment=grant.experiment,
        source_path=bundle.path,
        sha256=grant.sha256,
        environment=manifest.environment,
        parameters=bind(grant, manifest),
        seed=grant.seed,
        budget_seconds=grant.budget_seconds,
        limits=limits_for(needs_of(task, state.bundles), expected_seconds),
    )
    return c.StartTask(spec=spec, gpus=[state.facts.gpus[i] for i in gpus] if state.facts else [])
