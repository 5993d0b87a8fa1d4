"""Derives the agent's commands from its state, after every event.

The plan depends on the whole state and never on which event came last (it is level-triggered), so
that no order of events can make it forget a step. Each step has a module of its own.
"""

from __future__ import annotations

from axiom_client.decide.blocked import remember_block_reason
from axiom_client.decide.contact import contact_server
from axiom_client.decide.drain import advance_drain, give_back_waiting
from axiom_client.decide.fetch import fetch_bundles
from axiom_client.decide.give_back import give_back_late
from axiom_client.decide.leave import exit_when_done
from axiom_client.decide.measure import measure
from axiom_client.decide.pauses import end_pauses
from axiom_client.decide.place import place, room_now
from axiom_client.decide.standby import limit_standby
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.take_up import take_up_update
from axiom_client.decide.wake import schedule_wake
from axiom_client.decide.warm import keep_warm


def plan(builder: StepBuilder) -> None:
    """Give all commands that follow from the state."""
    if builder.state.exited:
        return
    end_pauses(builder)
    advance_drain(builder)
    take_up_update(builder)
    give_back_waiting(builder)
    remember_block_reason(builder.state)
    fetch_bundles(builder)
    room = room_now(builder.state)
    give_back_late(builder)
    place(builder, room)
    measure(builder)
    keep_warm(builder)
    limit_standby(builder, room)
    contact_server(builder, room)
    exit_when_done(builder)
    schedule_wake(builder, room)
