"""Which hosts may compute a replica, how they are drawn, and when mismatches have consequences."""

from __future__ import annotations

from dataclasses import replace

import pytest

from axiom_server.decide import replicate
from axiom_server.decide.admission import PER_SECOND_START, WAIT_SECONDS, Admission
from axiom_server.decide.replicate import (
    WAITING_MAX,
    Checker,
    Panel,
    ReplicaNeed,
    ReplicationPolicy,
)
from axiom_server.decide.standing import Level, StandingPolicy

POLICY = ReplicationPolicy()
STANDING = StandingPolicy()
NEED = ReplicaNeed(
    workunit_id=1, device="cpu", environment="numpy", memory_bytes=8, users=frozenset({1})
)
HOST = Checker(
    host_id=10, user_id=2, slots=1, gpus=0, memory_bytes=8, environments=frozenset({"numpy"})
)


def able(need: ReplicaNeed, *hosts: Checker) -> list[int]:
    return sorted(checker.host_id for checker in Panel(STANDING, hosts).able(need))


def test_a_host_fits_with_just_enough_memory() -> None:
    assert able(NEED, HOST) == [10]
    assert able(replace(NEED, memory_bytes=9), HOST) == []


def test_only_a_task_for_a_gpu_needs_one() -> None:
    gpu = replace(HOST, host_id=11, user_id=3, gpus=1)
    assert able(NEED, HOST, gpu) == [10, 11]
    assert able(replace(NEED, device="gpu"), HOST, gpu) == [11]


def test_hosts_without_a_known_address_do_not_share_one() -> None:
    known = replace(HOST, host_id=11, user_id=3, address="192.0.2.1")
    assert able(replace(NEED, addresses=frozenset({"198.51.100.1"})), HOST, known) == [10, 11]
    assert able(replace(NEED, addresses=frozenset({"192.0.2.1"})), HOST, known) == [10]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"level": Level.SENIOR}, {"level": Level.NEWCOMER}),
        ({"live": True}, {"live": False}),
        ({"waiting": 0}, {"waiting": WAITING_MAX}),
    ],
)
def test_an_account_is_represented_by_its_best_host(
    better: dict[str, object], worse: dict[str, object]
) -> None:
    first = replace(HOST, host_id=11, rank=0.9, **better)  # type: ignore[arg-type]
    second = replace(HOST, host_id=12, rank=0.1, **worse)  # type: ignore[arg-type]
    assert able(NEED, first, second) == able(NEED, second, first) == [11]


def test_an_account_has_the_level_of_its_best_host() -> None:
    hosts = [
        replace(HOST, host_id=10 * user + n, user_id=user, level=level)
        for user in range(2, 7)
        for n, level in enumerate((Level.JUDGE, Level.NEWCOMER))
    ]
    assert Panel(STANDING, hosts).established
    assert not Panel(STANDING, hosts[2:]).established


def drawn(panel: Panel, need: ReplicaNeed = NEED, draw: float = 0.0) -> list[int]:
    return [checker.host_id for checker in panel.draw(need, panel.able(need), draw)]


def test_two_replicas_go_to_different_addresses() -> None:
    two = replace(NEED, count=2)
    unknown = [replace(HOST, host_id=n, user_id=n) for n in (10, 11)]
    assert sorted(drawn(Panel(STANDING, unknown), two)) == [10, 11]
    together = [replace(host, address="192.0.2.1") for host in unknown]
    assert len(drawn(Panel(STANDING, together), two)) == 1


def test_replicas_are_placed_until_so_many_wait_for_each_slot() -> None:
    panel = Panel(STANDING, [replace(HOST, slots=2, waiting=2 * WAITING_MAX - 3)])
    assert [drawn(panel) for _ in range(4)] == [[10], [10], [10], []]
    assert not Panel(STANDING, [replace(HOST, waiting=WAITING_MAX - 1)]).is_busy(HOST)
    assert Panel(STANDING, [replace(HOST, slots=0, waiting=WAITING_MAX)]).is_busy(
        replace(HOST, slots=0)
    )


@pytest.mark.parametrize(
    ("fraction", "seniors"), [(0.0, False), (0.24, False), (0.26, True), (1.1, False)]
)
def test_a_share_of_the_draws_is_from_all_judges(fraction: float, seniors: bool) -> None:
    """The digits of the draw behind the sixth decide it, and not those that choose the host."""
    judges = [
        replace(HOST, host_id=n, user_id=n, rank=n / 100, level=Level.JUDGE) for n in range(10, 15)
    ]
    senior = replace(HOST, host_id=50, user_id=50, rank=0.9, level=Level.SENIOR)
    panel = Panel(STANDING, [*judges, senior])
    assert drawn(panel, draw=(100.0 + fraction) / 1e6) == ([50] if seniors else [10])


def test_unless_said_otherwise_a_panel_is_of_all_hosts() -> None:
    assert Panel(STANDING, []).complete
    assert Panel(STANDING, []).is_enough
    assert not Panel(STANDING, [], complete=False).complete


def test_a_project_of_one_account_has_no_other() -> None:
    assert not replicate.has_other_users(1, frozenset({1}))
    assert not replicate.has_other_users(1, frozenset())
    assert replicate.has_other_users(1, frozenset({1, 2}))


def test_from_the_tenth_confirmed_result_on_not_all_are_checked() -> None:
    assert replicate.wants_replica(POLICY, 9, 0.999)
    assert not replicate.wants_replica(POLICY, 10, 1.0)


@pytest.mark.parametrize(
    ("mismatches", "compared", "opposing", "ends"),
    [
        (2, 2, {}, False), (3, 30, {}, True), (3, 31, {}, False),
        (3, 1000, {"refuted_by": 3, "confirmed_by": 2}, True),
        (3, 1000, {"refuted_by": 3, "confirmed_by": 3}, False),
        (3, 1000, {"refuted_by": 2, "confirmed_by": 1}, False),
        (3, 1000, {"refuted_by": 3}, True), (3, 1000, {"confirmed_by": 3}, False),
    ],
)  # fmt: skip
def test_a_host_is_quarantined_for_its_share_of_mismatches_or_for_its_opponents(
    mismatches: int, compared: int, opposing: dict[str, int], ends: bool
) -> None:
    assert replicate.quarantines(POLICY, mismatches, compared, **opposing) is ends


def test_a_time_without_answers_or_duration_teaches_nothing() -> None:
    admission = Admission()
    admission.record(answered=0, seconds=1.0)
    admission.record(answered=10, seconds=0.0)
    assert admission.per_second == PER_SECOND_START
    assert admission.wait(int(PER_SECOND_START * WAIT_SECONDS) - 1, 0.0) == 0.0
    assert admission.wait(int(PER_SECOND_START * WAIT_SECONDS), 0.0) > 0.0
