"""Replication, comparison, retries and the watchdog."""

from __future__ import annotations

import pytest

from axiom_protocol.manifest import Field, Manifest
from axiom_server.decide import retry, validate, watchdog
from axiom_server.decide.standing import Level
from axiom_server.decide.watchdog import OtherUsers, RecentTask, SameNumbers

MANIFEST = Manifest(
    name="known", version="1.0.0", title="Known", question="Is it?", expected_seconds=1.0,
    result={
        "valid": Field(kind="flag"), "configs_done": Field(kind="integer"),
        "x": Field(rtol=1e-6), "huge": Field(rtol=1e-6), "noise": Field(chaotic=True),
    },
)  # fmt: skip


def opinion(
    task_id: int, x: float, noise: float = 0.0, level: Level = Level.NEWCOMER, address: str = "",
    asked: bool = True,
) -> validate.ComparedResult:  # fmt: skip
    """A result of a separate host and account."""
    result = {"valid": 1, "configs_done": 1, "x": x, "huge": 1e12, "noise": noise}
    return validate.ComparedResult(
        task_id=task_id, host_id=task_id, user_id=task_id, result=result, level=level,
        address=address, asked=asked,
    )  # fmt: skip


def test_a_wrong_seed_is_seen_beside_a_large_entry() -> None:
    """A cosine over the whole vector would call these equal."""
    decision = validate.compare(MANIFEST, [opinion(1, 0.5), opinion(2, 0.6)])
    assert decision.verdict == "disputed"
    assert decision.note.startswith("x:")


def test_last_digits_and_chaotic_fields_may_differ() -> None:
    results = [opinion(1, 0.5, noise=1.0), opinion(2, 0.5 + 1e-9, noise=9.0), opinion(3, 0.5)]
    assert validate.compare(MANIFEST, results).agreeing == (1, 2, 3)


@pytest.mark.parametrize(
    ("outcome", "refused", "attempt", "again", "next_attempt"),
    [
        ("success", False, 1, False, 1),
        ("success", True, 1, True, 2),
        ("failed", False, 1, True, 2),
        ("failed", False, 6, False, 7),
        ("lost", False, 5, True, 6),
        ("lost", False, 6, False, 7),
        ("cancelled", False, 3, True, 3),
    ],
)
def test_what_becomes_of_a_workunit(
    outcome: str, refused: bool, attempt: int, again: bool, next_attempt: int
) -> None:
    decision = retry.decide_requeue(outcome, refused, attempt)  # type: ignore[arg-type]
    assert (decision.requeue, decision.attempt) == (again, next_attempt)


def test_failures_count_until_a_success_unless_the_version_is_offered_no_more() -> None:
    assert retry.count_failures(2, "failed", False, offered=True) == 3
    assert retry.count_failures(2, "failed", False, offered=False) == 2
    assert retry.count_failures(2, "cancelled", False, offered=True) == 2
    assert retry.count_failures(2, "success", False, offered=True) == 0
    assert retry.count_failures(0, "success", True, offered=True) == 1


def ended(
    faults: int, successes: int, hosts: int = 3, ratio: float = 1.0, declared: float = 60.0
) -> list[RecentTask]:
    tasks = [RecentTask(account_id=i % hosts, fault=True, ratio=0.0) for i in range(faults)]
    return tasks + [
        RecentTask(account_id=i % hosts, fault=False, ratio=ratio, elapsed_seconds=ratio * declared)
        for i in range(successes)
    ]


@pytest.mark.parametrize(
    ("recent", "kind"),
    [
        (ended(2, 8), "error_rate"), (ended(1, 9), None), (ended(5, 4), None),
        (ended(0, 10, ratio=11.0), "runtime"), (ended(0, 10, ratio=0.0005), "runtime"),
        (ended(0, 10, ratio=5.0), None), (ended(10, 0, hosts=1), "error_rate"),
        (ended(0, 10, ratio=50.0, declared=0.001), None),
    ],
)  # fmt: skip
def test_the_watchdog(recent: list[RecentTask], kind: str | None) -> None:
    alarm = watchdog.watch(recent)
    assert (alarm.kind if alarm else None) == kind


def test_one_bad_host_does_not_stop_an_experiment() -> None:
    recent = [RecentTask(account_id=1, fault=True, ratio=0.0)] * 5
    recent += [RecentTask(account_id=2, fault=False, ratio=1.0)] * 20
    assert watchdog.watch(recent) is None


def test_one_bad_host_and_single_faults_of_others_do_not_stop_an_experiment() -> None:
    recent = [RecentTask(account_id=1, fault=True, ratio=0.0)] * 4
    recent += [RecentTask(account_id=account, fault=True, ratio=0.0) for account in (2, 3)]
    recent += [RecentTask(account_id=2 + i % 4, fault=False, ratio=1.0) for i in range(44)]
    assert watchdog.watch(recent) is None


def test_a_few_broken_hosts_do_not_stop_an_experiment_that_others_still_compute() -> None:
    """Broken hosts fail at once and honest hosts need hours, so the first results are failures."""
    recent = [
        RecentTask(account_id=i % 3, fault=True, ratio=0.0, elapsed_seconds=5.0) for i in range(30)
    ]
    alarm = watchdog.watch(recent)
    assert alarm is not None
    assert alarm.outlived_after_seconds == 310.0
    assert watchdog.blames_accounts(alarm, recent, range(100, 130))
    assert not watchdog.blames_accounts(alarm, recent, range(100, 108))
    assert not watchdog.blames_accounts(alarm, recent, ())


def test_broken_hosts_with_the_newest_results_do_not_stop_an_experiment() -> None:
    """Near the end of a deployment only broken hosts get work, and have the newest results."""
    recent = [RecentTask(account_id=i % 4, fault=True, ratio=0.0) for i in range(9)]
    recent += [RecentTask(account_id=10 + i, fault=False, ratio=1.0) for i in range(11)]
    alarm = watchdog.watch(recent)
    assert alarm is not None
    assert not watchdog.blames_accounts(alarm, recent, ())
    well = dict.fromkeys(range(10, 60), False)
    assert watchdog.blames_accounts(alarm, recent, (), well | dict.fromkeys(range(4), True))
    assert not watchdog.blames_accounts(
        alarm, recent, (), well | dict.fromkeys(range(60, 80), True)
    )


def test_hosts_that_end_tasks_at_once_do_not_stop_an_experiment() -> None:
    recent = [
        RecentTask(account_id=i % 4, fault=False, ratio=1e-5, elapsed_seconds=0.1)
        for i in range(40)
    ]
    alarm = watchdog.watch(recent)
    assert alarm is not None
    assert watchdog.blames_accounts(alarm, recent, range(100, 110))
    assert not watchdog.blames_accounts(alarm, recent, range(100, 103))


def numbers(seeds: int, *hosts: int) -> SameNumbers:
    """Each host has its own user, and every seed."""
    return SameNumbers(
        seeds=frozenset(range(seeds)), repeats=dict.fromkeys(hosts, seeds), users=frozenset(hosts)
    )


def others_of(others: int = 0, waiting: int = 0, only: bool = False) -> OtherUsers:
    return OtherUsers(
        others=frozenset(range(100, 100 + others)),
        waiting=frozenset(range(200, 200 + waiting)), only=only,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "around", "suspects", "alarm"),
    [
        ([], others_of(), [], False),
        # Two users have the same numbers, and nobody has different ones.
        ([numbers(2, 7, 8)], others_of(), [], True),
        ([numbers(1, 7, 8)], others_of(), [], False),
        ([numbers(2, 7, 8)], others_of(others=1), [], True),
        # Most of their other numbers differ: the two are a coincidence.
        ([numbers(2, 7, 8)], OtherUsers(others=frozenset({7, 8})), [], False),
        ([numbers(2, 7, 8)], OtherUsers(others=frozenset({7})), [], False),
        ([numbers(2, 7)], OtherUsers(others=frozenset({7}), only=True), [], False),
        # One of a user's hosts invents its results, while the user's others compute.
        ([numbers(4, 7)], OtherUsers(others=frozenset({7, 8})), [7], False),
        ([numbers(4, 7)], OtherUsers(others=frozenset({7})), [], False),
        # Hosts that invent results report at once; honest hosts still compute.
        ([numbers(9, 7, 8)], others_of(waiting=2), [], False),
        ([numbers(9, 7, 8)], others_of(others=2, waiting=9), [7, 8], False),
        # One user's host invents its results if another user has different numbers, ...
        ([numbers(4, 7)], others_of(others=1), [7], False),
        ([numbers(3, 7)], others_of(others=1), [], False),
        ([numbers(50, 7)], others_of(waiting=1), [], False),
        # ... and the script is at fault if no other user computes it.
        ([numbers(2, 7)], others_of(only=True), [], True),
        ([numbers(9, 7)], others_of(), [], False),
        ([numbers(10, 7)], others_of(), [], True),
        # Several users that each repeat a number of their own do not confirm each other.
        ([numbers(20, 7), numbers(20, 8), numbers(20, 9)], others_of(), [], False),
        ([numbers(20, 7), numbers(20, 8), numbers(20, 9)], others_of(others=1), [7, 8, 9], False),
    ],
)  # fmt: skip
def test_same_numbers_for_different_seeds(
    found: list[SameNumbers], around: OtherUsers, suspects: list[int], alarm: bool
) -> None:
    hosts, raised = watchdog.judge_same_numbers(found, around)
    assert (hosts, raised is not None) == (suspects, alarm)


def test_a_majority_names_who_agrees_and_what_differs() -> None:
    same = [opinion(i, 0.5) for i in (1, 2, 3, 4)]
    decision = validate.compare(MANIFEST, [*same, opinion(5, 0.6)])
    assert decision.verdict == "agreed"
    assert decision.agreeing == (1, 2, 3, 4)
    assert [task_id for task_id, _ in decision.outliers] == [5]
    assert decision.note.startswith("x:")


def test_alarms_say_what_was_seen() -> None:
    few = SameNumbers(seeds=frozenset({7, 8}), repeats={}, users=frozenset({1, 2}))
    many = SameNumbers(seeds=frozenset({5, 4, 3, 2}), repeats={}, users=frozenset({1, 2}))
    for found in ([few, many], [many, few]):
        _, alarm = watchdog.judge_same_numbers(found, OtherUsers())
        assert alarm is not None
        assert alarm.kind == "same_result"
        assert alarm.message == "seeds 2, 3, 4 gave the same numbers: it ignores its seed"
    fast = [RecentTask(account_id=i, fault=False, ratio=1e-4) for i in range(20)]
    alarm = watchdog.watch(fast)
    assert alarm is not None
    assert (alarm.kind, alarm.message) == (
        "runtime", "it runs 10000 times shorter than declared",
    )  # fmt: skip


def test_results_that_agree_are_enough_or_say_how_many_more_would_be() -> None:
    wanted = validate.compare(MANIFEST, [opinion(1, 0.5)])
    assert (wanted.verdict, wanted.missing) == ("wanted", 2)
    unasked = validate.compare(MANIFEST, [opinion(1, 0.5, asked=False)])
    assert (unasked.verdict, unasked.missing) == ("wanted", 3)
    disputed = validate.compare(MANIFEST, [opinion(1, 0.5), opinion(2, 0.6)])
    assert (disputed.verdict, disputed.missing) == ("disputed", 1)


def test_two_judges_outvote_any_newcomers() -> None:
    newcomers = [opinion(i, 0.5) for i in (1, 2, 3)]
    judges = [opinion(i, 0.6, level=Level.JUDGE) for i in (4, 5)]
    decision = validate.compare(MANIFEST, [*newcomers, *judges])
    assert (decision.verdict, decision.agreeing) == ("agreed", (4, 5))


def test_one_judge_alone_settles_nothing_even_at_the_end() -> None:
    results = [opinion(1, 0.5), opinion(2, 0.6, level=Level.JUDGE)]
    decision = validate.compare(MANIFEST, results, final=True)
    assert decision.verdict == "unsettled"
    assert decision.note.startswith("x:")


def task(account: int, ratio: float = 1.0, fault: bool = False, seconds: float = 60) -> RecentTask:
    return RecentTask(account_id=account, fault=fault, ratio=ratio, elapsed_seconds=seconds)


def test_an_error_rate_of_just_a_tenth_is_allowed() -> None:
    recent = [task(account, fault=True) for account in (1, 2, 3)] + [task(1)] * 20
    recent += [task(2 + i % 2) for i in range(6)]
    assert watchdog.watch(recent[:-1] + [task(2)] * 2) is None
    assert watchdog.watch(recent) is not None


@pytest.mark.parametrize(("known", "share"), [(True, 0.25), (False, 0.5)])
def test_an_error_rate_is_told_and_needs_more_newcomers(known: bool, share: float) -> None:
    alarm = watchdog.watch(ended(4, 8, hosts=4), known=known)
    assert alarm is not None
    assert alarm.share_max == share
    assert alarm.message == "4 of its last 12 tasks failed, for 4 of 4 accounts"


def test_a_quarter_of_the_accounts_may_be_at_fault() -> None:
    recent = [task(1, fault=True)]
    alarm = watchdog.Alarm(kind="k", message="m", accounts=frozenset({1}), share_max=0.25)
    assert watchdog.blames_accounts(alarm, recent, [2, 3, 4])
    assert not watchdog.blames_accounts(alarm, recent, [2, 3])


@pytest.mark.parametrize(
    ("recent", "accounts"),
    [
        ([task(1, 10.0)] * 10, None),
        ([task(1, 11.0, seconds=1.0)] * 10, None),
        ([task(1, 11.0)] * 6 + [task(2, 10.0)] * 4, {1}),
        ([task(1, 0.001)] * 10, None),
        ([task(1, 0.0015)] * 10, None),
        ([task(1, 0.0009)] * 7 + [task(2, 0.001), task(3, 0.0015), task(4, 5.0)], {1}),
        # Faults, and tasks whose host's pace is not known, say nothing about the time it takes.
        ([task(1, 50.0)] * 9 + [task(2, 50.0, fault=True)] * 5, None),
        ([task(1, 50.0)] * 9 + [task(1, 0.0)] * 3, None),
    ],
)
def test_whose_tasks_take_far_too_long_or_short(
    recent: list[RecentTask], accounts: set[int] | None
) -> None:
    alarm = watchdog.watch(recent)
    assert (set(alarm.accounts) if alarm else None) == accounts
    assert alarm is None or alarm.share_max == 0.5


def test_how_much_longer_it_runs_is_told() -> None:
    alarm = watchdog.watch(ended(0, 10, ratio=12.5))
    assert alarm is not None
    assert alarm.message == "it runs 12.5 times as long as its metadata declares"
