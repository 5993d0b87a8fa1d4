"""Stop an experiment that wastes the hosts' time: it fails too often, runs far longer than
declared, or ignores its seed.

In the original project, one broken script put every host into back-off. Here the experiment is
stopped, and the hosts get no penalty. On the other hand, a few broken or dishonest hosts must not
stop a sound experiment, although they return their tasks at once while honest hosts still compute.
So accounts are counted instead of hosts, and accounts with confirmed results are judged first.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

RESULTS_MIN = 10  # with fewer tasks nothing is decided
ERROR_RATE_MAX = 0.10
FAULTY_SHARE_MAX = 0.25  # of the accounts; if no more than these fail, the accounts are at fault
FAULTY_NEWCOMERS_MAX = 0.5  # ... of newcomers, because several of them may be one person
SLOWER_MAX = 10.0  # times the declared seconds: the median, corrected for each host's pace
SLOWER_SECONDS = 1.0  # shorter tasks spend their time on starting, whatever they declare
FASTER_MAX = 1_000.0  # times shorter than declared: such an experiment does nothing
OUTLIVED_FACTOR = 2.0  # a task that runs this many times as long as a failed one avoided its fault
OUTLIVED_SECONDS = 300.0  # ... and this much longer, because it may have waited before it started
REPEATS_MIN = 4  # different seeds with the same numbers before a host is suspected
REPEATS_ALONE = 10  # ... before an experiment is, which nobody else computes


@dataclass(frozen=True, kw_only=True)
class RecentTask:
    """One recent task of the experiment that ended on its own (it was not cancelled or lost).

    account_id  the account whose host ran it
    ratio       elapsed over declared seconds, divided by the host's pace on other experiments
    """

    account_id: int
    fault: bool
    ratio: float
    elapsed_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Why an experiment is stopped, unless ``accounts`` are at fault.

    share_max  if more than this share of its accounts are affected, the experiment is at fault
    """

    kind: str
    message: str
    accounts: frozenset[int] = frozenset()
    outlived_after_seconds: float = 0.0
    share_max: float = 0.0


def watch(recent: Sequence[RecentTask], *, known: bool = True) -> Alarm | None:
    """Judge the newest tasks of one version (successes and faults, in any order).

    ``known``: whether their accounts have standing. Of newcomers, half must be affected.
    """
    if len(recent) < RESULTS_MIN:
        return None
    return _watch_errors(recent, known) or _watch_runtimes(recent)


def _watch_errors(recent: Sequence[RecentTask], known: bool) -> Alarm | None:
    faults = [task for task in recent if task.fault]
    accounts, faulty = {t.account_id for t in recent}, {t.account_id for t in faults}
    # If only one account has faults, the account is at fault, unless no other computes it.
    if not (_fails_too_often(recent) and _fails_too_often(_without_worst(recent))):
        return None
    return _alarm(
        "error_rate", faults, FAULTY_SHARE_MAX if known else FAULTY_NEWCOMERS_MAX,
        f"{len(faults)} of its last {len(recent)} tasks failed, "
        f"for {len(faulty)} of {len(accounts)} accounts",
    )  # fmt: skip


def _watch_runtimes(recent: Sequence[RecentTask]) -> Alarm | None:
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


def _fails_too_often(tasks: Sequence[RecentTask]) -> bool:
    """Whether the error rate is exceeded. True without tasks, because nothing shows a success."""
    return not tasks or sum(task.fault for task in tasks) > ERROR_RATE_MAX * len(tasks)


def _without_worst(recent: Sequence[RecentTask]) -> list[RecentTask]:
    """The tasks of all accounts except the one with most faults; ``recent`` has some.

    Otherwise that account, with a few ordinary faults of others, could exceed the error rate.
    """
    faults = Counter(task.account_id for task in recent if task.fault)
    worst = max(sorted(faults), key=faults.__getitem__)
    return [task for task in recent if task.account_id != worst]


def _alarm(kind: str, at_fault: Sequence[RecentTask], share_max: float, message: str) -> Alarm:
    longest = max(task.elapsed_seconds for task in at_fault)
    return Alarm(
        kind=kind, message=message, share_max=share_max,
        accounts=frozenset(task.account_id for task in at_fault),
        outlived_after_seconds=OUTLIVED_FACTOR * longest + OUTLIVED_SECONDS,
    )  # fmt: skip


def blames_accounts(
    alarm: Alarm, recent: Sequence[RecentTask], outliving: Collection[int],
    lately: Mapping[int, bool] | None = None,
) -> bool:  # fmt: skip
    """Whether a few accounts are at fault, and not the experiment.

    outliving  accounts with a task of it that has run for longer than ``outlived_after_seconds``
    lately     accounts that computed it within a day, and whether their newest task failed. They
               are considered because broken hosts, which end their tasks at once and then get
               more, dominate the newest results
    """
    lately = lately or {}
    at_fault = alarm.accounts | {account for account, fault in lately.items() if fault}
    computing = {task.account_id for task in recent} | set(outliving) | lately.keys()
    spared = computing - at_fault
    return bool(spared) and len(at_fault) <= alarm.share_max * len(computing)


@dataclass(frozen=True, kw_only=True)
class SameNumbers:
    """Different seeds with the same result. ``repeats``: the number of these seeds by host."""

    seeds: frozenset[int]
    repeats: dict[int, int]
    users: frozenset[int | None]


@dataclass(frozen=True, kw_only=True)
class OtherUsers:
    """Which other users compute a version.

    others   users most of whose results differ from those of all other seeds
    waiting  users who compute it now and have no such result yet
    only     whether the project has only one user
    """

    others: frozenset[int | None] = frozenset()
    waiting: frozenset[int | None] = frozenset()
    only: bool = False


def judge_same_numbers(
    same_numbers: Sequence[SameNumbers], other_users: OtherUsers
) -> tuple[list[int], Alarm | None]:
    """Decide who is at fault when different seeds gave the same numbers: hosts or the experiment.

    Returns the hosts at fault, and the alarm if the experiment is.

    The experiment ignores its seed if more users got the same numbers as another user, or are its
    only users, than got different numbers or still compute. So hosts that invent results, even the
    same ones, cannot stop it before honest hosts, which need hours, have returned theirs. Nor can
    coincidence: a result of few bits is the same for some pair of a few hundred seeds, but most
    of a user's results still differ. A host that repeats its numbers invents them once numbers of
    others show that the seed matters.
    """
    same_numbers = [same for same in same_numbers if len(same.seeds) > 1]
    others = other_users.others
    involved = frozenset[int | None]().union(*(same.users for same in same_numbers)) - others
    doubting = others | (other_users.waiting - involved)
    shared = [t for t in same_numbers if len(t.users) > 1 or _alone(t, involved, other_users.only)]
    agreeing = frozenset[int | None]().union(*(same.users for same in shared)) - others
    if len(agreeing) > len(doubting):
        seeds = sorted(max(shared, key=lambda t: len(t.seeds)).seeds)[:3]
        return [], Alarm(
            kind="same_result",
            message=f"seeds {', '.join(map(str, seeds))} gave the same numbers: "
            "it ignores its seed",
        )
    suspects = {
        host_id
        for same in same_numbers
        for host_id, count in same.repeats.items()
        if count >= REPEATS_MIN and len(others - same.users) >= len(same.users)
    }
    return sorted(suspects), None


def _alone(same: SameNumbers, involved: Collection[int | None], only: bool) -> bool:
    """Whether one user's numbers are enough against the experiment, if no other user doubts it."""
    return len(involved) == 1 and (only or len(same.seeds) >= REPEATS_ALONE)
