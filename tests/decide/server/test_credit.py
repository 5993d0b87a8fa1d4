"""Credit policies, caps, averages."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axiom_server.decide import credit
from axiom_server.decide.credit import CreditPolicy, Earning, Tier

DAY = 86400.0


def earning(task_id: int, seconds: float, cpu: float | None = None, user: int = 1) -> Earning:
    return Earning(
        task_id=task_id, user_id=user, host_id=1, elapsed_seconds=seconds, cpu_seconds=cpu
    )


@pytest.mark.parametrize(
    ("seconds", "paid"),
    [(0.5, 2), (99.99, 2), (100, 5), (999.9, 5), (1000, 10), (9999, 10), (10_000, 15), (1e7, 15)],
)
def test_the_default_is_the_logs_tiers(seconds: float, paid: int) -> None:
    assert credit.amount(CreditPolicy(), seconds) == paid


def test_no_work_earns_nothing() -> None:
    decisions = credit.decide(CreditPolicy(), [earning(1, 0.0), earning(2, 50.0, cpu=0.0)])
    assert [d.amount for d in decisions] == [0, 0]
    assert {d.note for d in decisions} == {"no work: it took no time"}


def test_a_gflops_day_is_two_hundred_cobblestones() -> None:
    policy = CreditPolicy(kind="flops", gflops_per_slot=1.0)
    assert credit.amount(policy, DAY) == 200
    assert credit.amount(CreditPolicy(kind="flops", gflops_per_slot=2.5), DAY) == 500


def test_a_cap_falls_on_the_latest_tasks_of_each_user() -> None:
    policy = CreditPolicy(cap_per_user=5.0)
    tasks = [earning(i, 10.0, user=i % 2) for i in range(8)]
    paid = [d.amount for d in credit.decide(policy, list(reversed(tasks)))]
    assert paid == [2, 2, 2, 2, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("tiers", "refusal"),
    [
        ((), "the first tier must start at 0 seconds"),
        ((Tier(5, 1),), "the first tier must start at 0 seconds"),
        ((Tier(0, 1), Tier(0, 2)), "tiers must ascend in min_elapsed_seconds"),
        ((Tier(0, 1), Tier(5, 2)), None),
    ],
)
def test_senseless_tiers_are_refused(tiers: tuple[Tier, ...], refusal: str | None) -> None:
    assert CreditPolicy(tiers=tiers).refusal() == refusal


@given(
    st.lists(st.floats(0, 1e6, allow_nan=False), max_size=30),
    st.sampled_from(["tiers", "flops", "workunit"]),
    st.floats(0, 100),
)
def test_every_task_gets_one_decision_and_no_cap_is_passed(
    seconds: list[float], kind: str, cap: float
) -> None:
    policy = CreditPolicy(kind=kind, cap_per_user=cap)  # type: ignore[arg-type]
    decisions = credit.decide(policy, [earning(i, s) for i, s in enumerate(seconds)])
    assert [d.task_id for d in decisions] == list(range(len(seconds)))
    assert all(d.amount >= 0 for d in decisions)
    if cap:
        assert sum((d.amount for d in decisions), Decimal(0)) <= Decimal(repr(cap))


def test_recent_average_halves_in_seven_days() -> None:
    assert credit.decayed(10.0, 7 * DAY) == pytest.approx(5.0)


def test_recent_average_approaches_a_steady_rate() -> None:
    average = 0.0
    for _ in range(100):
        average = credit.averaged(average, DAY, 50.0)
    assert average == pytest.approx(50.0, rel=1e-3)


def test_recent_average_has_a_limit_where_no_time_passed() -> None:
    at_once = credit.averaged(3.0, 0.0, 10.0)
    assert at_once == pytest.approx(3.0 + math.log(2) * 10.0 / 7)
    soon = credit.averaged(3.0, 1.0, 10.0)
    assert at_once == pytest.approx(soon, rel=1e-4)


def test_an_average_does_not_fall_without_time() -> None:
    assert credit.decayed(100.0, 0.0) == 100.0
    assert credit.decayed(100.0, -5.0) == 100.0
    assert credit.decayed(100.0, 7 * 86_400.0) == pytest.approx(50.0)


def test_a_cap_is_paid_out_completely() -> None:
    policy = credit.CreditPolicy(kind="workunit", credit_per_workunit=2.0, cap_per_user=2.5)
    earned = [
        credit.Earning(task_id=i, user_id=1, host_id=1, elapsed_seconds=1.0, cpu_seconds=1.0)
        for i in (1, 2, 3)
    ]
    assert [float(d.amount) for d in credit.decide(policy, earned)] == [2.0, 0.5, 0.0]


@pytest.mark.parametrize("seconds", [0.0, 1e-6, 1.0, 2.0, 7 * DAY])
def test_recent_average_is_boincs_formula(seconds: float) -> None:
    """Credit spread evenly over the time: its integral, in one formula for all times."""
    rate = math.log(2) / (7 * DAY)
    gain = -math.expm1(-rate * seconds) / seconds if seconds else rate
    expected = 3.0 * math.exp(-rate * seconds) + 10.0 * gain * DAY
    assert credit.averaged(3.0, seconds, 10.0) == pytest.approx(expected, rel=1e-9)


def test_only_less_credit_has_a_note() -> None:
    policy = credit.CreditPolicy(kind="workunit", credit_per_workunit=2.0, cap_per_user=4.0)
    notes = [d.note for d in credit.decide(policy, [earning(i, 9.0) for i in (1, 2, 3)])]
    assert notes == ["", "", "the cap of this review is reached"]
