"""The life of one task on this host: which happening leads from which phase to which."""

from __future__ import annotations

from typing import Literal

import msgspec

from axiom_client.decide.model import Phase, TaskState

Transition = Literal[
    "bundle_ready",  # its experiment is here and verified
    "start",
    "pause",
    "resume",
    "stop",  # asked to end, by the server, by a person or by the agent's own end
    "end",  # finally: there is a report
    "put_back",  # it will run again here
]

#: (phase, transition) -> phase. What is not listed must not happen, and raises.
TRANSITIONS: dict[tuple[Phase, Transition], Phase] = {
    ("granted", "bundle_ready"): "queued",
    ("granted", "end"): "ended",  # cancelled, or its bundle is refused
    ("queued", "start"): "running",
    ("queued", "end"): "ended",  # cancelled, or it can never fit here
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
    """A decision asked for a step that the table does not have: a fault in the agent itself."""


def advance(task: TaskState, transition: Transition) -> TaskState:
    """The task in its next phase. Raises ImpossibleTransition."""
    phase = TRANSITIONS.get((task.phase, transition))
    if phase is None:
        raise ImpossibleTransition(f"task {task.task_id}: {transition} while {task.phase}")
    return msgspec.structs.replace(task, phase=phase)


GRACE_SECONDS = 5.0  # for a task to keep a checkpoint when it is asked to end
#: Phases in which a process of the task exists.
ALIVE: frozenset[Phase] = frozenset({"running", "paused", "stopping"})
#: Phases in which the task waits to run.
WAITING: frozenset[Phase] = frozenset({"granted", "queued"})
