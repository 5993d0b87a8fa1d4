"""Bounds on one answer of the server: how much the agent keeps of it, and how long it waits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import structs

from axiom_client.decide.model import TaskState
from axiom_protocol.messages import GRANTS_MAX, Grant, SyncAnswer

IN_HAND_MAX = 20_000  # tasks that one request can list; with more, no request could be sent
GRANT_BYTES_MAX = 64 * 1024  # as JSON; parameters are names and numbers, mostly below 1 kB
GRANTS_BYTES_MAX = 4 * 1024 * 1024  # of one answer together, each kept in the journal
HELD_BYTES_MAX = 32 * 1024 * 1024  # of all tasks in hand together
NOTICES_MAX = 20
NEXT_SYNC_SECONDS_MIN = 1.0  # a server's configuration allows no less
NEXT_SYNC_SECONDS_MAX = 3600.0  # so that a withdrawn bundle is noticed within the hour


def within_bounds(answer: SyncAnswer, tasks: Mapping[int, TaskState]) -> SyncAnswer:
    """The answer without what exceeds the bounds.

    A grant that is left out is not in the next request's ``in_hand``: the server queues it again.
    """
    return structs.replace(
        answer,
        grants=_accepted(answer.grants, tasks),
        cancelled=[task_id for task_id in answer.cancelled if task_id in tasks],
        notices=answer.notices[:NOTICES_MAX],
        next_sync_seconds=min(
            max(answer.next_sync_seconds, NEXT_SYNC_SECONDS_MIN), NEXT_SYNC_SECONDS_MAX
        ),
    )


def _accepted(grants: Iterable[Grant], tasks: Mapping[int, TaskState]) -> list[Grant]:
    """The grants of tasks that are in hand already, and the first new ones within the bounds."""
    accepted: list[Grant] = []
    room = min(GRANTS_MAX, IN_HAND_MAX - len(tasks))
    held = sum(_size(task.record.grant) for task in tasks.values()) if grants else 0
    bytes_left = min(GRANTS_BYTES_MAX, HELD_BYTES_MAX - held)
    for grant in grants:
        size = 0 if grant.task_id in tasks else _size(grant)
        if size > GRANT_BYTES_MAX or size > bytes_left or (size and room <= 0):
            continue
        accepted.append(grant)
        room, bytes_left = room - bool(size), bytes_left - size
    return accepted


def _size(grant: Grant) -> int:
    return len(msgspec.json.encode(grant))
