"""Taking up a staged release: between tasks, or after a while at checkpoints of running ones."""

from __future__ import annotations

from axiom_client.decide import events as e
from axiom_client.decide.model import UpdateWait
from axiom_client.decide.requests import stop
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.task import has_running

WAIT_SECONDS = 1800.0  # most tasks end within it; the cores of ended ones are idle meanwhile


def update_staged(builder: StepBuilder, event: e.UpdateStaged) -> None:
    """Take no more tasks: another version is to be started. The first wait is not prolonged."""
    state = builder.state
    stop_at = state.now + WAIT_SECONDS if state.update is None else state.update.stop_at
    state.update = UpdateWait(version=event.version, stop_at=stop_at)
    builder.log(f"axiom-client {event.version} is staged; it starts when no task runs")


def take_up_update(builder: StepBuilder) -> None:
    """Stop for the other version when no task runs, or the wait is over."""
    state = builder.state
    if state.update is None or state.stop is not None:
        return
    if not has_running(state) or state.now >= state.update.stop_at:
        stop(builder, f"axiom-client {state.update.version} is started", hurry=False, update=True)
