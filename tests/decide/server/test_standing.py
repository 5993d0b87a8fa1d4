"""Standing: it is earned, each account has one vote, and a host's claims do not raise it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from axiom_protocol.manifest import Field, Manifest
from axiom_protocol.messages import Capacity
from axiom_server.decide import deploy, lease, replicate, standing, validate
from axiom_server.decide.deploy import IdleHost
from axiom_server.decide.replicate import Checker, Panel, ReplicaNeed, ReplicationPolicy
from axiom_server.decide.retry import LOSSES_MAX, decide_requeue_lost
from axiom_server.decide.standing import Level, Standing, StandingPolicy

POLICY = StandingPolicy()
DAY = 86400.0
OLD = Standing(validated=10, agreeing=3, age_seconds=2 * DAY)
MANIFEST = Manifest(
    name="known", version="1.0.0", title="Known", question="Is it?", expected_seconds=1.0,
    result={"valid": Field(kind="flag"), "configs_done": Field(kind="integer"), "x": Field()},
)  # fmt: skip
NEED = ReplicaNeed(
    workunit_id=1, device="cpu", environment="numpy", memory_bytes=1, users=frozenset({1})
)
HOST = Checker(
    host_id=10, user_id=2, slots=4, gpus=0, memory_bytes=8, environments=frozenset({"numpy"})
)
DRAWS = {n: (n * 0.6180339887) % 1.0 for n in range(4000)}


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (OLD, Level.JUDGE),
        (replace(OLD, age_seconds=40 * DAY), Level.SENIOR),
        (replace(OLD, age_seconds=30 * DAY), Level.SENIOR),
        (replace(OLD, age_seconds=DAY), Level.NEWCOMER),
        (replace(OLD, validated=9), Level.NEWCOMER),
        (replace(OLD, agreeing=2), Level.NEWCOMER),
        (replace(OLD, agreeing=1, confirmed_by_staff=True), Level.JUDGE),
        (replace(OLD, streak=-1), Level.NEWCOMER),
        (Standing(vouched=True, age_seconds=90 * DAY), Level.NEWCOMER),
        (Standing(trusted=True), Level.STAFF),
    ],
)
def test_levels_of_standing(known: Standing, expected: Level) -> None:
    assert standing.level(POLICY, known) == expected


def test_the_tasks_that_an_account_may_hold_grow_with_its_confirmed_results() -> None:
    held = [standing.tasks_in_hand(POLICY, Standing(validated=n)) for n in (0, 8, 116)]
    assert held == [8, 24, 240]
    assert standing.tasks_in_hand(POLICY, Standing(vouched=True)) is None


def test_accounts_that_give_back_tasks_or_flood_the_judges_get_less() -> None:
    assert standing.tasks_in_hand(POLICY, Standing(returned=500)) == 1
    for waited, tasks in ((0.0, 0), (59.0, 0), (60.0, 1)):
        returned = Standing(returned=8, since_return_seconds=waited)
        assert standing.tasks_in_hand(POLICY, returned) == tasks
    assert standing.tasks_in_hand(POLICY, Standing(unconfirmed=30)) == 2
    assert standing.tasks_in_hand(POLICY, Standing(unconfirmed=40)) == 0


def test_a_claim_of_65536_cores_is_worth_eight_tasks() -> None:
    host = lease.HostView(
        cpu_cores=65_536, gpus=0, memory_bytes=8, environments=frozenset({"numpy"}),
        leased={"cpu": 0, "gpu": 0}, quota=8,
    )  # fmt: skip
    capacity = Capacity(cpu_slots=65_536, cpu_slots_free=65_536, memory_free_bytes=8,
                     disk_free_bytes=8, buffer_seconds=1e6)  # fmt: skip
    assert lease.room(lease.LeasePolicy(), host, capacity, "", 1.0).cpu == 8
    full = lease.room(lease.LeasePolicy(), replace(host, user_leased=8), capacity, "", 1.0)
    assert (full.cpu, full.reason) == (0, lease.EARNING)


def test_five_joins_of_one_account_fill_eight_cores_and_known_hosts_all_of_theirs() -> None:
    crowd = [IdleHost(host_id=n, cpu=65_536, gpu=1, user_id=7, earned=8) for n in range(5)]
    known = IdleHost(host_id=9, cpu=240, gpu=2)
    bounded = deploy.limit_by_standing([*crowd, known])
    assert [(h.host_id, h.cpu, h.gpu) for h in bounded] == [(0, 7, 1), (9, 240, 2)]


def test_a_workunit_that_is_always_lost_ends() -> None:
    attempt, handed_out = 1, 1
    while (decision := decide_requeue_lost(attempt)).requeue:
        attempt, handed_out = decision.attempt, handed_out + 1
    assert handed_out == LOSSES_MAX


def test_new_hosts_are_checked_always_and_others_by_their_record() -> None:
    policy = ReplicationPolicy()
    shares = [
        sum(replicate.wants_replica(policy, streak, draw / 1000) for draw in range(1000))
        for streak in (-100, 9, 20, 50, 1000)
    ]
    assert shares == [1000, 1000, 250, 41, 20]
    young = [
        sum(
            replicate.wants_replica(policy, streak, draw / 1000, young=True) for draw in range(1000)
        )
        for streak in (9, 20, 50, 1000)
    ]
    assert young == [1000, 500, 200, 20]


def crowd(count: int, first: int, **changes: object) -> list[Checker]:
    """Hosts of as many accounts."""
    return [
        replace(HOST, host_id=n, user_id=n, rank=(n * 0.37) % 1.0, **changes)  # type: ignore[arg-type]
        for n in range(first, first + count)
    ]


def checks(hosts: list[Checker], needs: int = 900, **changes: object) -> Counter[int]:
    """How many of the needs each host is drawn for."""
    panel = Panel(POLICY, [replace(h, slots=h.slots * 1000) for h in hosts])
    wanted = [replace(NEED, workunit_id=n, **changes) for n in range(needs)]  # type: ignore[arg-type]
    placed, nowhere = replicate.place(panel, wanted, DRAWS)
    assert not nowhere
    return Counter(host for _, host in placed)


def test_claimed_cores_and_many_hosts_draw_no_more_checks() -> None:
    honest = crowd(17, 100)
    claims = crowd(3, 200, slots=65_536)
    many = [replace(HOST, host_id=300 + n, user_id=999, rank=n / 100) for n in range(100)]
    drawn = checks([*honest, *claims, *many])
    share = 900 / 21
    assert all(share / 2 < drawn[h.host_id] < share * 2 for h in claims)
    assert share / 2 < sum(drawn[h.host_id] for h in many) < share * 2


def test_newcomers_check_nobody_once_there_are_judges() -> None:
    judges = crowd(5, 100, level=Level.JUDGE)
    assert set(checks([*judges, *crowd(500, 1000)])) == {h.host_id for h in judges}
    assert set(checks([*judges[:4], *crowd(5, 1000)])) > {1000, 1004}, "four are too few"
    staff = replace(HOST, host_id=9, user_id=9, level=Level.STAFF)
    assert set(checks([staff, *crowd(500, 1000)])) == {9}, "one of staff's is an anchor"


def test_five_judges_at_one_address_are_one() -> None:
    together = crowd(5, 100, level=Level.JUDGE, address="192.0.2.1")
    assert not Panel(POLICY, together).established
    drawn = checks([*together, *crowd(20, 1000)], count=3)
    assert sum(drawn[h.host_id] for h in together) <= 900


def test_young_judges_make_a_small_share_of_the_checks() -> None:
    drawn = checks([*crowd(4, 100, level=Level.SENIOR), *crowd(300, 1000, level=Level.JUDGE)])
    young = sum(count for host, count in drawn.items() if host >= 1000)
    assert young < 900 * 0.3
    settled = checks(
        [*crowd(4, 100, level=Level.SENIOR), *crowd(300, 1000, level=Level.JUDGE)], disputed=True
    )
    assert max(settled) < 1000, "and settles no dispute"


@pytest.mark.parametrize(
    ("others", "every_judge", "enough"),
    [
        ({}, False, False), ({}, True, False),
        ({"level": Level.JUDGE}, False, False), ({"level": Level.JUDGE}, True, True),
        ({"level": Level.SENIOR}, False, True),
    ],
)  # fmt: skip
def test_a_part_of_the_accounts_is_enough_if_it_has_the_seniors_that_all_have(
    others: dict[str, object], every_judge: bool, enough: bool
) -> None:
    hosts = [*crowd(5, 100, level=Level.JUDGE), *crowd(1, 200, **others)]
    few = Panel(POLICY, hosts[4 if not others else 0 :], complete=False, every_judge=every_judge)
    assert few.is_enough is enough


def test_accounts_that_had_the_workunit_or_share_an_address_are_not_drawn() -> None:
    need = replace(NEED, users=frozenset({1, 2}), addresses=frozenset({"192.0.2.1"}))
    beside = replace(HOST, host_id=11, user_id=3, address="192.0.2.1")
    assert replicate.place(Panel(POLICY, [HOST, beside]), [need], DRAWS) == ([], [need])


@pytest.mark.parametrize("changes", [{"live": False}, {"waiting": 1000}])
def test_a_replica_waits_for_hosts_that_are_away_or_busy(changes: dict[str, object]) -> None:
    panel = Panel(POLICY, [replace(HOST, **changes)])  # type: ignore[arg-type]
    assert replicate.place(panel, [NEED], DRAWS) == ([], [])


@pytest.mark.parametrize(
    "host",
    [
        replace(HOST, user_id=1), replace(HOST, user_id=None), replace(HOST, memory_bytes=0),
        replace(HOST, environments=frozenset({"torch"})),
    ],
)  # fmt: skip
def test_without_a_suitable_host_nobody_is_drawn(host: Checker) -> None:
    assert replicate.place(Panel(POLICY, [host]), [NEED], DRAWS) == ([], [NEED])


def opinions(
    *values: float, level: Level = Level.NEWCOMER, first: int = 1, address: str = ""
) -> list[validate.ComparedResult]:
    return [
        validate.ComparedResult(
            task_id=first + n, host_id=first + n, user_id=first + n, level=level, address=address,
            result={"valid": 1, "configs_done": 1, "x": x},
        )
        for n, x in enumerate(values)
    ]  # fmt: skip


def verdict(*groups: list[validate.ComparedResult], final: bool = False) -> tuple[str, int]:
    decision = validate.compare(MANIFEST, [r for g in groups for r in g], final=final)
    return decision.verdict, len(decision.outliers)


def test_three_newcomers_or_two_with_a_judge_must_agree() -> None:
    assert verdict(opinions(0.5, 0.5)) == ("wanted", 0)
    assert verdict(opinions(0.5, 0.5, 0.5)) == ("agreed", 0)
    assert verdict(opinions(0.5), opinions(0.5, level=Level.JUDGE, first=9)) == ("agreed", 0)
    assert verdict(opinions(0.5, 0.5), final=True) == ("agreed", 0)
    assert verdict(opinions(0.5), final=True) == ("wanted", 0)


def test_three_colluding_newcomers_never_refute_one() -> None:
    """The margin is three, and the account that they disagree with has a vote too."""
    honest, evil = opinions(0.5), opinions(0.9, 0.9, 0.9, first=10)
    assert verdict(honest, evil) == ("disputed", 0)
    assert verdict(honest, evil, opinions(0.5, 0.5, first=20)) == ("disputed", 0)
    assert verdict(opinions(0.5, 0.5, 0.5, 0.5), evil[:1]) == ("agreed", 1)


def test_accounts_at_one_address_have_one_vote() -> None:
    evil = opinions(*[0.9] * 6, first=10, address="192.0.2.1")
    assert verdict(evil) == ("wanted", 0)
    assert verdict(opinions(0.5, 0.5), evil) == ("disputed", 0)


def test_a_trusted_host_outvotes_any_number_of_accounts() -> None:
    evil = opinions(*[0.9] * 7, first=10)
    staff = opinions(0.5, level=Level.STAFF)
    assert verdict(staff, evil) == ("agreed", 7)
    assert verdict(opinions(0.9, 0.9, 0.9, first=10, level=Level.SENIOR), staff) == ("agreed", 3)


def test_seniors_decide_over_judges_by_two() -> None:
    judges = opinions(0.9, 0.9, 0.9, first=10, level=Level.JUDGE)
    assert verdict(judges, opinions(0.5, level=Level.SENIOR)) == ("disputed", 0)
    assert verdict(judges, opinions(0.5, 0.5, level=Level.SENIOR)) == ("agreed", 3)


def test_without_a_majority_no_host_is_charged() -> None:
    assert verdict(opinions(*[n / 10 for n in range(8)])) == ("disputed", 0)
    assert verdict(opinions(*[n / 10 for n in range(9)])) == ("unsettled", 0)
    assert verdict(opinions(0.5, 0.9), final=True) == ("unsettled", 0)
    assert verdict(opinions(0.5, 0.5, 0.9), final=True) == ("agreed", 1)


def test_a_small_share_of_refuted_results_does_not_quarantine() -> None:
    policy = ReplicationPolicy()
    assert replicate.quarantines(policy, 3, 3)
    assert not replicate.quarantines(policy, 2, 2)
    assert not replicate.quarantines(policy, 3, 100)
    assert replicate.quarantines(policy, 3, 100, refuted_by=6, confirmed_by=2)
    assert not replicate.quarantines(policy, 3, 100, refuted_by=6, confirmed_by=6)
    assert not replicate.quarantines(policy, 3, 100, refuted_by=2, confirmed_by=1)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (Standing(), False),
        (Standing(trusted=True), True),
        (Standing(vouched=True), True),
        (Standing(validated=1), True),
    ],
)
def test_accounts_that_anybody_vouches_for(known: Standing, expected: bool) -> None:
    assert standing.is_known(known) is expected


def test_accounts_are_young_until_they_may_be_seniors() -> None:
    assert standing.is_young(POLICY, Standing(age_seconds=29 * DAY))
    assert not standing.is_young(POLICY, Standing(age_seconds=30 * DAY))
    assert not standing.is_young(POLICY, Standing(age_seconds=DAY, trusted=True))


def test_the_pause_after_returned_tasks_doubles_up_to_an_hour() -> None:
    pauses = [standing.pause_seconds(8, returned) for returned in (0, 7, 8, 9, 14, 100)]
    assert pauses == [0.0, 0.0, 60.0, 120.0, 3600.0, 3600.0]


def test_judges_too_may_compute_what_is_not_disputed() -> None:
    panel = Panel(POLICY, [
        replace(HOST, host_id=n, user_id=n, level=Level.SENIOR if n > 20 else Level.JUDGE)
        for n in (20, 21, 22, 23, 24, 25)
    ])  # fmt: skip
    assert panel.established
    assert {c.host_id for c in panel.able(NEED)} == {20, 21, 22, 23, 24, 25}
    disputed = replace(NEED, disputed=True)
    assert {c.host_id for c in panel.able(disputed)} == {21, 22, 23, 24, 25}
