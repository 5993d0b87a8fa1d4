"""Limits the processes that wait with loaded libraries, on systems without zygotes.

They take memory that no task has been promised, so they get what the tasks leave of memory.share,
and of the memory that is free now beyond memory.keep_free. They end before a task would have to.
"""

from __future__ import annotations

import math

from axiom_client.decide import commands as c
from axiom_client.decide.allocate import needs_of
from axiom_client.decide.capacity import Room
from axiom_client.decide.cohort import process_needs
from axiom_client.decide.drain import drain_reason
from axiom_client.decide.model import AgentState
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.task import ALIVE, has_unended

STANDBY_BYTES = 350_000_000  # torch: 270 MB on Linux; private pages are more on other systems
KEPT_BYTES = STANDBY_BYTES // 2  # free memory below which those that wait end
CORES_PER_STANDBY = 8  # of one environment; a second one may wait for tasks of another


def limit_standby(builder: StepBuilder, room: Room) -> None:
    """Say how many may wait, when that has changed."""
    state = builder.state
    processes = standby_processes(state, room)
    if processes != state.standby:
        state.standby = processes
        builder.do(c.AllowStandby(processes=processes))


def standby_processes(state: AgentState, room: Room) -> int:
    """The largest number that may wait now; 0 when no task will be started."""
    works = has_unended(state) and not (room.blocked or drain_reason(state) or state.stop)
    if not works or not state.warm or not room.cpu:
        return 0
    left = (room.memory_bytes - _held_bytes(state)) // STANDBY_BYTES
    most = 1 + math.ceil(len(room.cpu) / CORES_PER_STANDBY)
    return max(0, min(most, left, _fitting_now(state, room)))


def _fitting_now(state: AgentState, room: Room) -> int:
    """How many the free memory is enough for; those that wait already have theirs."""
    if not state.limits.memory_keep_free:
        return room.memory_bytes // STANDBY_BYTES
    free = room.memory_now or 0
    kept = state.standby if free >= KEPT_BYTES else 0
    return max(kept, free // (2 * STANDBY_BYTES))


def _held_bytes(state: AgentState) -> int:
    """The memory promised to tasks that have a process."""
    processes = {task.process_id: task for task in state.tasks.values() if task.phase in ALIVE}
    return sum(
        process_needs(task, needs_of(task, state.bundles), state.bundles).memory_bytes
        for task in processes.values()
    )
