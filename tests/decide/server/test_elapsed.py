"""How much of the claimed elapsed seconds is accepted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from axiom_server.decide.elapsed import (
    CLOCK_TOLERANCE,
    GRACE_SECONDS,
    AcceptedTime,
    Claim,
    allowance_after,
    cap_claims,
    find_mismatch,
)


def test_a_task_cannot_have_run_longer_than_since_its_grant() -> None:
    claim = Claim(task_id=1, claimed_seconds=500.0, wall_seconds=60.0)
    assert cap_claims([claim], 1e9, 4).elapsed_seconds == {1: 60.0}


def test_a_host_cannot_have_worked_longer_than_its_slots() -> None:
    claims = [Claim(task_id=i, claimed_seconds=100.0, wall_seconds=100.0) for i in range(40)]
    allowance = allowance_after(0.0, 4, 100.0, True)
    accepted = cap_claims(claims, allowance, 4)
    total = sum(accepted.elapsed_seconds.values())
    assert total <= 400 * CLOCK_TOLERANCE + 4 * GRACE_SECONDS + 1e-6
    assert accepted.allowance_seconds == 0


def test_no_allowance_accumulates_without_tasks() -> None:
    assert allowance_after(1000.0, 4, 3600.0, False) == 0.0


@given(
    st.integers(1, 64),
    st.lists(st.tuples(st.floats(0.1, 500), st.integers(0, 64)), min_size=1, max_size=20),
)
def test_an_honest_host_is_believed(slots: int, syncs: list[tuple[float, int]]) -> None:
    """Whatever the times of its syncs and reports: tasks that fit its slots count in full."""
    allowance, unspent = 0.0, 0.0
    for seconds, finished in syncs:
        allowance = allowance_after(allowance, slots, seconds, True)
        unspent += slots * seconds  # what its slots really ran and has not been reported
        claims = [
            Claim(task_id=i, claimed_seconds=unspent / 64, wall_seconds=1e9)
            for i in range(min(finished, 64))
        ]
        accepted = cap_claims(claims, allowance, slots)
        for claim in claims:
            assert accepted.elapsed_seconds[claim.task_id] >= claim.claimed_seconds * (1 - 1e-9)
        unspent -= sum(c.claimed_seconds for c in claims)
        allowance = accepted.allowance_seconds


def claim(task_id: int, seconds: float, wall: float = 1e9) -> Claim:
    return Claim(task_id=task_id, claimed_seconds=seconds, wall_seconds=wall)


def test_clocks_that_go_back_give_nothing() -> None:
    assert allowance_after(10.0, 4, -5.0, True) == 10.0
    assert allowance_after(10.0, 4, 0.0, True) == 10.0
    assert cap_claims([claim(1, 5.0, wall=-3.0)], 100.0, 1).elapsed_seconds == {1: 0.0}


def test_claims_beyond_the_allowance_and_the_grace_of_each_slot_are_scaled_down() -> None:
    accepted = cap_claims([claim(1, 30.0), claim(2, 10.0)], 12.0, 4)
    assert accepted.elapsed_seconds == {1: 15.0, 2: 5.0}
    assert accepted.allowance_seconds == 0
    all_of_it = cap_claims([claim(1, 15.0), claim(2, 5.0)], 12.0, 4)
    assert all_of_it.elapsed_seconds == {1: 15.0, 2: 5.0}
    assert cap_claims([claim(1, 5.0)], 12.0, 4).allowance_seconds == 7.0


def test_the_claim_that_is_furthest_beyond_what_is_possible_is_a_mismatch() -> None:
    assert find_mismatch([], AcceptedTime(elapsed_seconds={}, allowance_seconds=0.0)) is None
    accepted = AcceptedTime(elapsed_seconds={1: 100.0, 2: 900.0, 3: 100.0}, allowance_seconds=0.0)
    claims = [claim(1, 400.0), claim(2, 1000.0), claim(3, 400.0)]
    assert find_mismatch(claims, accepted) == (1, "claims 400 s where 100 s passed")
    assert find_mismatch(claims[::-1], accepted) == (1, "claims 400 s where 100 s passed")


def test_a_claim_may_be_a_fifth_and_two_minutes_too_long() -> None:
    accepted = AcceptedTime(elapsed_seconds={1: 1000.0}, allowance_seconds=0.0)
    assert find_mismatch([claim(1, 1320.0)], accepted) is None
    assert find_mismatch([claim(1, 1321.0)], accepted) is not None
