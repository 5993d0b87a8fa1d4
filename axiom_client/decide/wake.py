"""Sets the timer to the next time when the agent must decide something without another event."""

from __future__ import annotations

from axiom_client.decide import commands as c
from axiom_client.decide.blocked import changes_at
from axiom_client.decide.capacity import Room
from axiom_client.decide.measure import PROBE_SECONDS, next_measurement_at
from axiom_client.decide.model import NEVER, AgentState
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.sync import due_at, wanted_capacity
from axiom_client.decide.warm import RELEASE_SECONDS


def schedule_wake(builder: StepBuilder, room: Room) -> None:
    """Set the timer, unless it is set to that time already."""
    state = builder.state
    if state.exited:
        return
    at = _next_deadline(state, room)
    if at != state.wake_at:
        state.wake_at = at
        builder.do(c.WakeAt(at=at))


def _next_deadline(state: AgentState, room: Room) -> float:
    """The earliest time at which something must be decided, monotonic seconds."""
    return min(
        due_at(state, wanted_capacity(state, room)),
        state.stop_at,
        state.probed_at + PROBE_SECONDS,
        next_measurement_at(state),
        *changes_at(state),
        *_retries_at(state),
        _drain_deadline_at(state),
        _release_at(state),
        state.stop.give_up_at if state.stop is not None else NEVER,
        state.update.stop_at if state.update is not None and state.stop is None else NEVER,
    )


def _retries_at(state: AgentState) -> list[float]:
    """When lost tasks run again and failed bundles are fetched again."""
    times = [task.retry_at for task in state.tasks.values() if task.phase == "queued"]
    times += [bundle.retry_at for bundle in state.bundles.values() if not bundle.path]
    return [at for at in times if at > state.now]


def _drain_deadline_at(state: AgentState) -> float:
    if state.drain is None or state.drain.deadline_wall is None:
        return NEVER
    deadline = state.drain.deadline_wall - state.wall_offset
    return deadline if deadline > state.now else NEVER


def _release_at(state: AgentState) -> float:
    """When idle zygotes end."""
    return state.idle_since + RELEASE_SECONDS if state.warm else NEVER
