"""Gives back the tasks that this host cannot finish before their leases end."""

from __future__ import annotations

from axiom_client.decide.allocate import cores_with_memory, needs_of, task_seconds
from axiom_client.decide.blocked import blocked_seconds
from axiom_client.decide.capacity import Room, room
from axiom_client.decide.model import AgentState
from axiom_client.decide.place import ran_seconds
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.task import WAITING


def give_back_late(builder: StepBuilder) -> None:
    """Give back each waiting task that would end here after its lease: another host can begin now.

    A pause of known length counts as a delay. One without a known end may be over in a minute, so
    it does not count.
    """
    state = builder.state
    ordered = sorted(state.tasks.values(), key=lambda t: (t.record.order, t.task_id))
    ahead = 0.0  # core-seconds of the tasks before
    cores = max(1, cores_with_memory(state.tasks, state.bundles, _room_unblocked(state)))
    begin = state.wall + blocked_seconds(state)
    for task in ordered:
        if task.phase == "ended":
            continue
        seconds = task_seconds(task, state.bundles, state.durations)
        needs = needs_of(task, state.bundles)
        done_at = begin + (0.0 if needs.gpus else ahead / cores) + seconds
        if (
            task.phase in WAITING
            and not task.record.attempts
            and task.record.lease_until_wall < done_at
        ):
            builder.give_back(task, "this host could not finish it before its deadline")
        elif not needs.gpus:
            left = max(0.0, seconds - ran_seconds(task, state.now))
            ahead += left * needs.cpu_cores


def _room_unblocked(state: AgentState) -> Room:
    return room(state.facts, state.load, state.limits)
