"""Draining: tasks that run are finished, tasks that wait are given back, none are taken."""

from __future__ import annotations

from axiom_client.decide import commands as c
from axiom_client.decide.account import drained_by
from axiom_client.decide.model import AgentState, Pause
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.task import GRACE_SECONDS, WAITING


def advance_drain(builder: StepBuilder) -> None:
    """Stop tasks that still run at the deadline; afterwards pause, if the drain demands it."""
    state, drain = builder.state, builder.state.drain
    if drain is None or state.stop is not None:
        return
    late = deadline_passed(state)
    for _, task in sorted(state.tasks.items()):
        message = f"given back: {drain.reason}, and the drain's deadline has passed"
        if late and task.phase in ("running", "paused"):
            builder.advance(task, "stop", message=message)
            builder.do(c.StopTask(task_id=task.process_id, grace_seconds=GRACE_SECONDS))
        elif late and task.phase in WAITING:
            builder.end_without_run(task, "cancelled", message)
    if drain.then == "pause" and not (has_open_work(state) or state.sync.wanted_now):
        state.pause, state.drain = Pause(reason=f"paused: drained, {drain.reason}"), None
        builder.save_value("pause", state.pause)
        builder.save_value("drain", None)
        builder.log(state.pause.reason)


def deadline_passed(state: AgentState) -> bool:
    """Whether the agent drains and the drain's deadline has passed."""
    drain = state.drain
    return (
        drain is not None and drain.deadline_wall is not None and state.wall >= drain.deadline_wall
    )


def drain_reason(state: AgentState) -> str:
    """What drains this host, in words: a person at it, an update, the account or a mode."""
    if state.drain is not None:
        return state.drain.reason
    if state.update is not None:
        return f"axiom-client {state.update.version} starts when no task runs"
    return drained_by(state)


def has_open_work(state: AgentState) -> bool:
    """Whether a task or its report is in hand, or a request has no answer yet."""
    return bool(state.tasks or state.sync.in_flight or state.sync.unanswered)


def give_back_waiting(builder: StepBuilder) -> None:
    """While the agent drains or stops, give back the tasks that have not begun."""
    state = builder.state
    reason = "the agent stopped" if state.stop and not state.drain else drain_reason(state)
    if not reason:
        return
    for _, task in sorted(state.tasks.items()):
        if task.phase in WAITING and task.record.attempts == 0:
            builder.give_back(task, reason)
