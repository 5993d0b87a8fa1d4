"""Ends pauses at their time."""

from __future__ import annotations

from axiom_client.decide.model import Pause
from axiom_client.decide.step_builder import StepBuilder


def end_pauses(builder: StepBuilder) -> None:
    """End each pause, of the host or of a GPU, whose time is over."""
    state = builder.state
    if state.pause is not None and _is_over(state.pause, state.wall):
        state.pause = None
        builder.save_value("pause", None)
        builder.log("the pause is over")
    for uuid, pause in sorted(state.gpu_pauses.items()):
        if _is_over(pause, state.wall):
            del state.gpu_pauses[uuid]
            builder.save_value("gpu_pauses", state.gpu_pauses)
            builder.log("the pause of a GPU is over")


def _is_over(pause: Pause, wall: float) -> bool:
    return pause.until_wall is not None and wall >= pause.until_wall
