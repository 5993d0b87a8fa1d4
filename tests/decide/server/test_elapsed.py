"""How much of the claimed elapsed seconds is accepted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from axiom_server.decide.elapsed import (
    CLOCK_TOLERANCE,
    GRACE_SECONDS,
    Claim,
    allowance_after,
    cap_claims,
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
