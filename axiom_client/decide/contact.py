"""Contacts the server when a request is due: the unanswered one again, or a new one."""

from __future__ import annotations

from axiom_client.decide import commands as c
from axiom_client.decide.capacity import Room
from axiom_client.decide.model import NEVER
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.sync import compose, due_at, has_room, wanted_capacity


def contact_server(builder: StepBuilder, room: Room) -> None:
    """Send a request when one is due."""
    state = builder.state
    capacity = wanted_capacity(state, room)
    if due_at(state, capacity) > state.now:
        return
    unanswered = state.sync.unanswered
    if unanswered is not None:
        builder.send(unanswered, again=True)
        return
    if has_room(capacity) and state.sync.answered_at == -NEVER and not state.warm:
        state.warm = True
        builder.do(c.Prewarm(environment="numpy"))
    builder.send(compose(state, capacity), again=False)
