"""The phases of a task on this host, and the transitions between them."""

from __future__ import annotations

from typing import Literal

import msgspec

from axiom_client.decide.model import AgentState, Phase, TaskState

Transition = Literal[
    "bundle_ready",  # its bundle is fetched and verified
    "start",
    "pause",
    "resume",
    "stop",  # it was asked to end: by the server, by a person or because the agent stops
    "end",  # it has ended for good, and there is a report
    "put_back",  # it will run again here
]

#: (phase, transition) -> next phase. Any other pair raises ImpossibleTransition.
TRANSITIONS: dict[tuple[Phase, Transition], Phase] = {
    ("granted", "bundle_ready"): "queued",
    ("granted", "end"): "ended",  # cancelled, or its bundle is refused
    ("queued", "start"): "running",
    ("queued", "end"): "ended",  # cancelled, or it can never run here
    ("running", "pause"): "paused",
    ("running", "stop"): "stopping",
    ("running", "end"): "ended",
    ("running", "put_back"): "queued",  # its process was lost through no fault of its own
    ("paused", "resume"): "running",
    ("paused", "stop"): "stopping",
    ("paused", "end"): "ended",
    ("paused", "put_back"): "queued",
    ("stopping", "end"): "ended",
    ("stopping", "put_back"): "queued",
}


class ImpossibleTransition(Exception):
    """A transition that is not in the table: a programming error in the agent."""


def advance(task: TaskState, transition: Transition) -> TaskState:
    """The task in its next phase. Raises ImpossibleTransition."""
    phase = TRANSITIONS.get((task.phase, transition))
    if phase is None:
        raise ImpossibleTransition(f"task {task.task_id}: {transition} while {task.phase}")
    return msgspec.structs.replace(task, phase=phase)


def has_running(state: AgentState) -> bool:
    """Whether any task has a process."""
    return any(task.phase in ALIVE for task in state.tasks.values())


def has_unended(state: AgentState) -> bool:
    """Whether any task waits or runs; ended ones are kept until their reports are acknowledged."""
    return any(task.phase != "ended" for task in state.tasks.values())


GRACE_SECONDS = 5.0  # for a task to write a checkpoint when it is asked to end
#: Phases in which a process of the task exists.
ALIVE: frozenset[Phase] = frozenset({"running", "paused", "stopping"})
#: Phases in which the task waits to run.
WAITING: frozenset[Phase] = frozenset({"granted", "queued"})
