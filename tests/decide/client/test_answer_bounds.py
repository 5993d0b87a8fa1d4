"""Answers of any size: the tasks, waits and texts taken from them are limited."""

from __future__ import annotations

import msgspec
import pytest

from axiom_client.decide import commands as c
from axiom_client.decide.answer_bounds import (
    GRANT_BYTES_MAX,
    GRANTS_BYTES_MAX,
    HELD_BYTES_MAX,
    IN_HAND_MAX,
    NEXT_SYNC_SECONDS_MAX,
    NEXT_SYNC_SECONDS_MIN,
    NOTICES_MAX,
    within_bounds,
)
from axiom_client.decide.model import TaskRecord, TaskState
from axiom_client.decide.retry import RETRY_AFTER_SECONDS_MAX, retry_sync
from axiom_protocol.messages import GRANTS_MAX, Grant, SyncAnswer
from tests.support.world import World, grant, of


def answer(grants: list[Grant], **fields: object) -> SyncAnswer:
    whole = SyncAnswer(request_id="request-1", grants=grants, next_sync_seconds=60.0)
    return msgspec.structs.replace(whole, **fields)


def in_hand(count: int) -> dict[int, TaskState]:
    one = TaskState(record=TaskRecord(grant=grant(0), order=0, lease_until_wall=0.0))
    return dict.fromkeys(range(count), one)


def test_one_answer_grants_so_many_tasks_and_no_more() -> None:
    world = World()
    commands = world.answer(*[grant(i) for i in range(1, GRANTS_MAX + 101)])
    assert len(of(commands, c.SaveTask)) == GRANTS_MAX
    assert any("100 of 2100 granted tasks" in line.text for line in of(commands, c.LogLine))


def test_tasks_in_hand_never_exceed_what_a_request_can_list() -> None:
    bounded = within_bounds(answer([grant(100_000 + i) for i in range(50)]), in_hand(IN_HAND_MAX))
    assert bounded.grants == []
    bounded = within_bounds(
        answer([grant(100_000 + i) for i in range(50)]), in_hand(IN_HAND_MAX - 7)
    )
    assert len(bounded.grants) == 7


def test_a_repeated_grant_is_not_counted_again() -> None:
    assert len(within_bounds(answer([grant(1)]), in_hand(IN_HAND_MAX)).grants) == 1


def test_grants_are_bounded_in_bytes_each_and_together() -> None:
    def wide(task_id: int, size: int) -> Grant:
        return msgspec.structs.replace(grant(task_id), parameters={"text": "x" * size})

    assert within_bounds(answer([wide(1, GRANT_BYTES_MAX)]), {}).grants == []
    after = within_bounds(answer([wide(1, GRANT_BYTES_MAX), grant(2)]), {}).grants
    assert [g.task_id for g in after] == [2]
    many = [wide(i, GRANT_BYTES_MAX // 2) for i in range(1, 300)]
    kept = within_bounds(answer(many), {}).grants
    assert 0 < len(kept) < len(many)
    assert sum(len(msgspec.json.encode(g)) for g in kept) <= GRANTS_BYTES_MAX


def sized(task_id: int, size: int) -> Grant:
    """A grant that takes exactly so many bytes as JSON."""
    short = grant(task_id, parameters={"text": ""})
    return grant(task_id, parameters={"text": "x" * (size - len(msgspec.json.encode(short)))})


@pytest.mark.parametrize(("size", "kept"), [(GRANT_BYTES_MAX, 1), (GRANT_BYTES_MAX + 1, 0)])
def test_a_grant_may_take_just_its_bound(size: int, kept: int) -> None:
    assert len(within_bounds(answer([sized(1, size)]), {}).grants) == kept


@pytest.mark.parametrize(("last", "kept"), [(GRANT_BYTES_MAX, 1), (GRANT_BYTES_MAX + 1, 0)])
def test_grants_together_may_take_just_their_bound(last: int, kept: int) -> None:
    """The last one has as much room as is left."""
    room = GRANTS_BYTES_MAX // GRANT_BYTES_MAX
    many = [sized(i, GRANT_BYTES_MAX) for i in range(1, room)]
    many.append(sized(99, 1000))
    bounded = within_bounds(answer([*many, sized(100, last - 1000)]), {}).grants
    assert [g.task_id for g in bounded[room:]] == [100] * kept


def test_all_that_is_held_is_bounded_in_bytes() -> None:
    wide = grant(0, parameters={"text": "x" * (GRANT_BYTES_MAX // 2)})
    one = TaskState(record=TaskRecord(grant=wide, order=0, lease_until_wall=0.0))
    held = dict.fromkeys(range(2 * HELD_BYTES_MAX // GRANT_BYTES_MAX), one)
    assert within_bounds(answer([grant(10_000)]), held).grants == []


def test_waits_notices_and_cancellations_are_bounded() -> None:
    bounded = within_bounds(
        answer([], next_sync_seconds=1e8, notices=["n"] * 10_000, cancelled=[*range(10_000)]),
        in_hand(3),
    )
    assert bounded.next_sync_seconds == NEXT_SYNC_SECONDS_MAX
    shortest = within_bounds(answer([], next_sync_seconds=0.0), {})
    assert shortest.next_sync_seconds == NEXT_SYNC_SECONDS_MIN
    assert len(bounded.notices) == NOTICES_MAX
    assert bounded.cancelled == [0, 1, 2]


def test_the_wait_that_a_server_asks_for_is_bounded() -> None:
    for asked in (1e300, float("inf"), RETRY_AFTER_SECONDS_MAX + 1):
        assert retry_sync(0.0, 1, 0.5, asked).at == RETRY_AFTER_SECONDS_MAX
    assert retry_sync(0.0, 1, 0.5, 30.0).at == 30.0
