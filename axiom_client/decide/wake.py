"""When the agent must decide again though nothing happens."""

from __future__ import annotations

from axiom_client.decide import commands as c
from axiom_client.decide.blocked import changes_at
from axiom_client.decide.capacity import Room
from axiom_client.decide.measure import PROBE_SECONDS, next_measurement_at
from axiom_client.decide.model import NEVER, AgentState
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.sync import due_at, wanted_capacity
from axiom_client.decide.warm import RELEASE_SECONDS


def schedule_wake(builder: StepBuilder, space: Room) -> None:
    state = builder.state
    if state.exited:
        return
    at = _next_deadline(state, space)
    if at != state.wake_at:
        state.wake_at = at
        if at < NEVER:
            builder.do(c.WakeAt(at=at))


def _next_deadline(state: AgentState, space: Room) -> float:
    """The earliest time at which something must be decided again."""
    times = [
        due_at(state, wanted_capacity(state, space)),
        state.stop_at,
        state.probed_at + PROBE_SECONDS,
    ]
    times += [
        t.retry_at for t in state.tasks.values() if t.phase == "queued" and t.retry_at > state.now
    ]
    times += [b.retry_at for b in state.bundles.values() if not b.path and b.retry_at > state.now]
    times += changes_at(state)
    times.append(next_measurement_at(state))
    if state.drain is not None and state.drain.deadline_wall is not None:
        deadline = state.drain.deadline_wall - state.wall_offset
        times.append(deadline if deadline > state.now else NEVER)
    if state.warm and not any(t.phase != "ended" for t in state.tasks.values()):
        times.append(state.busy_at + RELEASE_SECONDS)
    if state.stop is not None:
        times.append(state.stop.give_up_at)
    return min(times)
