"""What follows from the state, decided anew after every event, so that nothing is left undone.

The decision depends on the whole state and never on which event came last (it is level-triggered):
no order of events can make it forget a step. Each step has a module of its own.
"""

from __future__ import annotations

from axiom_client.decide.blocked import remember
from axiom_client.decide.contact import contact_server
from axiom_client.decide.drain import advance_drain, give_back_waiting
from axiom_client.decide.fetch import fetch_bundles
from axiom_client.decide.give_back import give_back_late
from axiom_client.decide.leave import leave
from axiom_client.decide.measure import measure
from axiom_client.decide.pauses import end_pauses
from axiom_client.decide.place import place, room_now
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.wake import schedule_wake
from axiom_client.decide.warm import keep_warm


def plan(builder: StepBuilder) -> None:
    """Give every command that the state calls for."""
    if builder.state.exited:
        return
    end_pauses(builder)
    advance_drain(builder)
    give_back_waiting(builder)
    remember(builder.state)
    fetch_bundles(builder)
    space = room_now(builder.state)
    give_back_late(builder)
    place(builder, space)
    measure(builder)
    keep_warm(builder)
    contact_server(builder, space)
    leave(builder)
    schedule_wake(builder, space)
