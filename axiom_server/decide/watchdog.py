"""Stop an experiment that harms the hosts: fails too often, or runs far longer than declared.

In the original project one broken script put every host into back-off. Here it is the experiment
that is stopped, and the hosts are spared any penalty. The other way round, a few broken or lying
hosts must not stop a sound experiment: they answer at once, while honest hosts still compute. So
accounts are counted and not hosts, and those that others have confirmed before all others.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

RESULTS_MIN = 10  # fewer say nothing
ERROR_RATE_MAX = 0.10
FAULTY_SHARE_MAX = 0.25  # of the accounts: a few that fail on purpose stop nothing
FAULTY_NEWCOMERS_MAX = 0.5  # ... of newcomers, of whom nobody knows how many are one person
SLOWER_MAX = 10.0  # times the declared seconds, by the median, at each host's own pace
SLOWER_SECONDS = 1.0  # a task that took less spent it on being started, whatever it declares
FASTER_MAX = 1_000.0  # the same the other way: it does nothing; a fast host is no fault
OUTLIVED_FACTOR = 2.0  # a task that runs on for so many times as long has not met that fault
OUTLIVED_SECONDS = 300.0  # and so much more: it may have waited before it began
REPEATS_MIN = 4  # different seeds with the same numbers before one host is suspected
REPEATS_ALONE = 10  # ... before an experiment that nobody else computes is


@dataclass(frozen=True, kw_only=True)
class Ended:
    """One recent task of the experiment that ended by itself.

    account_id  whose task it was
    ratio       elapsed over declared seconds, divided by the host's pace on other experiments
    """

    account_id: int
    fault: bool
    ratio: float
    elapsed_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Why an experiment is stopped, unless it is the fault of ``accounts``.

    share_max  of the accounts that compute it: with more of them at fault, it is the experiment
    """

    kind: str
    message: str
    accounts: frozenset[int] = frozenset()
    outlived_after_seconds: float = 0.0
    share_max: float = 0.0


def watch(recent: Sequence[Ended], *, known: bool = True) -> Alarm | None:
    """Judge the newest tasks of one version (successes and faults, any order).

    ``known``: their accounts have standing. Of newcomers, half must be at fault.
    """
    if len(recent) < RESULTS_MIN:
        return None
    return _watch_errors(recent, known) or _watch_runtimes(recent)


def _watch_errors(recent: Sequence[Ended], known: bool) -> Alarm | None:
    faults = [task for task in recent if task.fault]
    accounts, faulty = {t.account_id for t in recent}, {t.account_id for t in faults}
    # One account that fails at everything is its own trouble, unless nobody else tried.
    spread = len(faulty) > 1 or len(accounts) == 1
    if not (spread and _fails_too_often(recent) and _fails_too_often(_without_worst(recent))):
        return None
    return _alarm(
        "error_rate", faults, FAULTY_SHARE_MAX if known else FAULTY_NEWCOMERS_MAX,
        f"{len(faults)} of its last {len(recent)} tasks failed, "
        f"for {len(faulty)} of {len(accounts)} accounts",
    )  # fmt: skip


def _watch_runtimes(recent: Sequence[Ended]) -> Alarm | None:
    timed = [task for task in recent if not task.fault and task.ratio > 0]
    if len(timed) < RESULTS_MIN:
        return None
    middle = statistics.median(task.ratio for task in timed)
    took = statistics.median(task.elapsed_seconds for task in timed)
    if middle > SLOWER_MAX and took > SLOWER_SECONDS:
        slow = [task for task in timed if task.ratio > SLOWER_MAX]
        return _alarm(
            "runtime", slow, 0.5, f"it runs {middle:.1f} times as long as its metadata declares"
        )
    if middle < 1 / FASTER_MAX:
        fast = [task for task in timed if task.ratio < 1 / FASTER_MAX]
        return _alarm("runtime", fast, 0.5, f"it runs {1 / middle:.0f} times shorter than declared")
    return None


def _fails_too_often(tasks: Sequence[Ended]) -> bool:
    """Whether the error rate is passed. True of no tasks: they are no evidence of success."""
    return not tasks or sum(task.fault for task in tasks) > ERROR_RATE_MAX * len(tasks)


def _without_worst(recent: Sequence[Ended]) -> list[Ended]:
    """The tasks of all accounts but the one with most faults.

    With that one, a few faults of others, as every host has them, would pass the error rate.
    """
    faults = Counter(task.account_id for task in recent if task.fault)
    worst = max(sorted(faults), key=faults.__getitem__, default=None)
    return [task for task in recent if task.account_id != worst]


def _alarm(kind: str, at_fault: Sequence[Ended], share_max: float, message: str) -> Alarm:
    longest = max(task.elapsed_seconds for task in at_fault)
    return Alarm(
        kind=kind, message=message, share_max=share_max,
        accounts=frozenset(task.account_id for task in at_fault),
        outlived_after_seconds=OUTLIVED_FACTOR * longest + OUTLIVED_SECONDS,
    )  # fmt: skip


def is_of_accounts(
    alarm: Alarm, recent: Sequence[Ended], outliving: Collection[int],
    lately: Mapping[int, bool] | None = None,
) -> bool:  # fmt: skip
    """Whether it is a few accounts that fail, and not the experiment.

    outliving  accounts whose task of it has run on for longer than ``outlived_after_seconds``
    lately     accounts that computed it within a day, and whether their newest task failed: broken
               hosts fill the newest results, for they are done at once and come back for more
    """
    lately = lately or {}
    at_fault = alarm.accounts | {account for account, fault in lately.items() if fault}
    computing = {task.account_id for task in recent} | set(outliving) | lately.keys()
    spared = computing - at_fault
    return bool(spared) and len(at_fault) <= alarm.share_max * len(computing)


@dataclass(frozen=True, kw_only=True)
class Twin:
    """The very same numbers under different seeds. ``repeats``: how many of them, by host."""

    seeds: frozenset[int]
    repeats: dict[int, int]
    users: frozenset[int | None]


@dataclass(frozen=True, kw_only=True)
class Company:
    """Who else computes a version.

    others   users with other numbers of it than the twins
    waiting  users who compute it now and have no such result
    only     one user is all that the project has
    """

    others: frozenset[int | None] = frozenset()
    waiting: frozenset[int | None] = frozenset()
    only: bool = False


def same_results(twins: Sequence[Twin], company: Company) -> tuple[list[int], Alarm | None]:
    """Who is at fault when different seeds gave the same numbers: hosts, or the experiment.

    The experiment ignores its seed when those who got the same numbers as another user, or who are
    alone with it, are more than those who got others or still compute: so neither one inventor nor
    several that invent the same can stop it before honest hosts, who need hours, have spoken. A
    host that repeats itself is inventing once others' numbers show that the seed matters.
    """
    twins = [twin for twin in twins if len(twin.seeds) > 1]
    involved = frozenset[int | None]().union(*(twin.users for twin in twins))
    others = company.others - involved
    doubting = others | (company.waiting - involved)
    shared = [t for t in twins if len(t.users) > 1 or _alone(t, involved, doubting, company.only)]
    agreeing = frozenset[int | None]().union(*(twin.users for twin in shared))
    if len(agreeing) > len(doubting):
        seeds = sorted(max(shared, key=lambda t: len(t.seeds)).seeds)[:3]
        return [], Alarm(
            kind="same_result",
            message=f"seeds {', '.join(map(str, seeds))} gave the very same numbers: "
            "it ignores its seed",
        )
    suspects = {
        host_id
        for twin in twins
        for host_id, count in twin.repeats.items()
        if count >= REPEATS_MIN and len(others) >= len(twin.users)
    }
    return sorted(suspects), None


def _alone(
    twin: Twin, involved: Collection[int | None], doubting: Collection[int | None], only: bool
) -> bool:
    """One user's numbers count against the experiment when nobody else has anything to say."""
    enough = only or len(twin.seeds) >= REPEATS_ALONE
    return not doubting and len(involved) == 1 and enough
