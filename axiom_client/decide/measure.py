"""Decides when the host is measured or probed again, and what is measured."""

from __future__ import annotations

import msgspec

from axiom_client.decide import commands as c
from axiom_client.decide.model import NEVER, AgentState
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.task import has_unended

# Between two measurements of other programs, presence, temperature and free space.
MEASURE_SECONDS = 10.0
MEASURE_IDLE_SECONDS = 60.0  # the same while no task is in hand that might have to pause
PROBE_SECONDS = 600.0  # between two probes: a GPU driver may load after the service has started


def needed_measurement(state: AgentState) -> c.MeasureLoad | None:
    """The measurements that the limits depend on; None if they depend on none."""
    limits = state.limits
    battery = state.load.has_battery and not limits.on_battery
    measurement = c.MeasureLoad(
        others=bool(limits.other_load_share),
        presence=battery or not limits.while_in_use,
        heat=bool(limits.temperature_max),
        programs=list(limits.exclusive),
        space=has_unended(state) and bool(limits.memory_keep_free or limits.disk_keep_free),
    )
    return measurement if measurement != c.MeasureLoad() else None


def next_measurement_at(state: AgentState) -> float:
    """When to measure next, monotonic seconds. Less often while no task is in hand."""
    if needed_measurement(state) is None:
        return NEVER
    return state.measured_at + (MEASURE_SECONDS if has_unended(state) else MEASURE_IDLE_SECONDS)


def measure(builder: StepBuilder) -> None:
    """Measure and probe the host when it is time."""
    state = builder.state
    if state.measured_at == -NEVER:
        state.measured_at = state.now
        measurement = needed_measurement(state) or c.MeasureLoad()
        # ``presence`` also finds out whether there is a battery to be watched.
        builder.do(msgspec.structs.replace(measurement, presence=True, space=True))
    elif state.now >= next_measurement_at(state):
        state.measured_at = state.now
        builder.do(needed_measurement(state) or c.MeasureLoad())
    if state.now >= state.probed_at + PROBE_SECONDS:
        state.probed_at = state.now
        builder.do(c.ProbeHost())
