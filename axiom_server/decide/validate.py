"""Compare results of one seed: decide which are correct and which are outliers.

Each account has one vote, and so does each network address. Only the highest level of standing
among the results decides: staff's hosts before seniors, seniors before judges, judges before
newcomers. Newcomers need a wide margin, because several of them may be one person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from axiom_protocol.agreement import disagreements
from axiom_protocol.manifest import Manifest
from axiom_protocol.result import Result
from axiom_server.decide.standing import Level

RESULTS_MAX = 9  # if so many give no majority, the experiment is at fault, not a host
ACCOUNTS_MIN = {  # accounts that must agree if none disagrees, by the highest level among them
    Level.NEWCOMER: 3,  # 3 attackers among 20 accounts are drawn together in 1 of 200 draws
    Level.JUDGE: 2,
    Level.SENIOR: 2,
    Level.STAFF: 1,
}
MARGIN_MIN = {  # votes of that level by which an answer must lead, if accounts disagree
    Level.NEWCOMER: 3,
    Level.JUDGE: 2,
    Level.SENIOR: 2,
    Level.STAFF: 1,
}


@dataclass(frozen=True, kw_only=True)
class ComparedResult:
    """One schema-checked result of the workunit, and the account, host and level it comes from.

    asked  the server chose the host for it: one that says itself that it was asked has no vote
    """

    task_id: int
    host_id: int
    user_id: int | None
    result: Result
    level: Level = Level.NEWCOMER
    address: str = ""
    asked: bool = True


@dataclass(frozen=True, kw_only=True)
class ComparisonDecision:
    """The outcome of a comparison.

    verdict   agreed: enough results agree; wanted: none disagrees, but more must agree; disputed:
              results disagree, and one more is needed; unsettled: there is still no majority, so
              the experiment is not reproducible and no host is charged
    agreeing  the tasks that agree
    outliers  (task, why), whose hosts are charged with a mismatch
    missing   further results that would be enough if they agreed
    """

    verdict: Literal["agreed", "wanted", "disputed", "unsettled"]
    agreeing: tuple[int, ...] = ()
    outliers: tuple[tuple[int, str], ...] = ()
    note: str = ""
    missing: int = 0


def compare(
    manifest: Manifest, results: Sequence[ComparedResult], *, final: bool = False
) -> ComparisonDecision:
    """Compare the results of one seed, field by field. ``results`` has at least one.

    ``final``: no further account can compute the workunit, so a strict majority of the results
    decides, and agreement of two is enough.
    """
    ordered = sorted(results, key=lambda o: o.task_id)
    highest = max((r.level for r in ordered if r.asked), default=Level.NEWCOMER)
    groups = _groups(manifest, ordered)
    groups.sort(key=lambda group: (-votes(group, highest), group[0].task_id))
    largest, others = groups[0], groups[1:]
    if not others:
        return _unanimous(largest, highest, final)
    note = disagreements(manifest, largest[0].result, others[0][0].result, limit=1)[0]
    margin = votes(largest, highest) - votes(others[0], highest)
    alone = highest < Level.STAFF and len(_voters(largest)) < 2
    if margin >= (1 if final else MARGIN_MIN[highest]) and not alone:
        return ComparisonDecision(
            verdict="agreed",
            agreeing=_task_ids(largest),
            outliers=_outliers(manifest, largest, others),
            note=note,
        )
    if final or len(ordered) >= RESULTS_MAX:
        return ComparisonDecision(verdict="unsettled", note=note)
    return ComparisonDecision(verdict="disputed", note=note, missing=1)


def _unanimous(group: Sequence[ComparedResult], highest: Level, final: bool) -> ComparisonDecision:
    needed = min(2, ACCOUNTS_MIN[highest]) if final else ACCOUNTS_MIN[highest]
    missing = needed - len(_voters(group))
    if missing <= 0:
        return ComparisonDecision(verdict="agreed", agreeing=_task_ids(group))
    return ComparisonDecision(verdict="wanted", missing=missing)


def votes(group: Sequence[ComparedResult], level: Level) -> int:
    """Votes of that level: one for each account, and for each address."""
    return len(_voters([result for result in group if result.level == level]))


def _voters(group: Sequence[ComparedResult]) -> set[int | str | None]:
    return {result.address or result.user_id for result in group if result.asked}


def _outliers(
    manifest: Manifest, largest: Sequence[ComparedResult], others: Sequence[list[ComparedResult]]
) -> tuple[tuple[int, str], ...]:
    wrong = sorted((r for group in others for r in group), key=lambda r: r.task_id)
    return tuple(
        (r.task_id, disagreements(manifest, largest[0].result, r.result, limit=1)[0]) for r in wrong
    )


def _groups(manifest: Manifest, ordered: Sequence[ComparedResult]) -> list[list[ComparedResult]]:
    """Group the results: each agrees with the first of its group."""
    groups: list[list[ComparedResult]] = []
    for compared in ordered:
        for group in groups:
            if not disagreements(manifest, group[0].result, compared.result, limit=1):
                group.append(compared)
                break
        else:
            groups.append([compared])
    return groups


def _task_ids(group: Sequence[ComparedResult]) -> tuple[int, ...]:
    return tuple(compared.task_id for compared in group)
