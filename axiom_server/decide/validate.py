"""Results of one seed held against each other: which are believed, and who is the outlier.

One account has one vote, and one address has one, whatever they claim. Only the highest level of
standing that took part decides: staff's hosts before seniors, seniors before judges, judges before
newcomers. Newcomers, of whom nobody knows how many are one person, need a wide margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from axiom_protocol.agreement import disagreements
from axiom_protocol.manifest import Manifest
from axiom_protocol.result import Result
from axiom_server.decide.standing import Level

RESULTS_MAX = 9  # when there is no majority by then, the experiment is at fault, not a host
ACCOUNTS_MIN = {  # that must agree where nobody disagrees, by the highest level among them
    Level.NEWCOMER: 3,  # two of three attackers among twenty meet in 1 of 200 draws
    Level.JUDGE: 2,
    Level.SENIOR: 2,
    Level.STAFF: 1,
}
MARGIN_MIN = {  # votes of that level ahead of any other answer, where somebody disagrees
    Level.NEWCOMER: 3,
    Level.JUDGE: 2,
    Level.SENIOR: 2,
    Level.STAFF: 1,
}


@dataclass(frozen=True, kw_only=True)
class ComparedResult:
    """One gated result of the workunit, by whom, and what his answer counts."""

    task_id: int
    host_id: int
    user_id: int | None
    result: Result
    level: Level = Level.NEWCOMER
    address: str = ""


@dataclass(frozen=True, kw_only=True)
class ComparisonDecision:
    """The outcome of a comparison.

    verdict   agreed: enough agree; wanted: nobody disagrees, and more must agree; disputed: another
              opinion is needed; unsettled: there is still no majority, so the numbers are not
              reproducible and nobody is to blame
    agreeing  the tasks that agree
    outliers  (task, why), whose hosts are charged with a mismatch
    missing   opinions that would be enough if they agreed
    """

    verdict: Literal["agreed", "wanted", "disputed", "unsettled"]
    agreeing: tuple[int, ...] = ()
    outliers: tuple[tuple[int, str], ...] = ()
    note: str = ""
    missing: int = 0


def compare(
    manifest: Manifest, results: Sequence[ComparedResult], *, all_asked: bool = False
) -> ComparisonDecision:
    """Hold the results of one seed against each other, field by field. One at least.

    ``all_asked``: nobody is left who could give another opinion, so that the strict majority of all
    there are decides, and agreement of two is enough.
    """
    ordered = sorted(results, key=lambda o: o.task_id)
    highest = max(result.level for result in ordered)
    groups = _groups(manifest, ordered)
    groups.sort(key=lambda group: (-votes(group, highest), group[0].task_id))
    largest, others = groups[0], groups[1:]
    if not others:
        return _unanimous(largest, highest, all_asked)
    note = disagreements(manifest, largest[0].result, others[0][0].result, limit=1)[0]
    margin = votes(largest, highest) - votes(others[0], highest)
    alone = highest < Level.STAFF and len(_people(largest)) < 2
    if margin >= (1 if all_asked else MARGIN_MIN[highest]) and not alone:
        return ComparisonDecision(
            verdict="agreed",
            agreeing=_task_ids(largest),
            outliers=_outliers(manifest, largest, others),
            note=note,
        )
    if all_asked or len(ordered) >= RESULTS_MAX:
        return ComparisonDecision(verdict="unsettled", note=note)
    return ComparisonDecision(verdict="disputed", note=note, missing=1)


def _unanimous(
    group: Sequence[ComparedResult], highest: Level, all_asked: bool
) -> ComparisonDecision:
    needed = min(2, ACCOUNTS_MIN[highest]) if all_asked else ACCOUNTS_MIN[highest]
    missing = needed - len(_people(group))
    if missing <= 0:
        return ComparisonDecision(verdict="agreed", agreeing=_task_ids(group))
    return ComparisonDecision(verdict="wanted", missing=missing)


def votes(group: Sequence[ComparedResult], level: Level) -> int:
    """Votes of that level: one for each account, and for each address."""
    return len(_people([result for result in group if result.level == level]))


def _people(group: Sequence[ComparedResult]) -> set[int | str | None]:
    return {result.address or result.user_id for result in group}


def _outliers(
    manifest: Manifest, largest: Sequence[ComparedResult], others: Sequence[list[ComparedResult]]
) -> tuple[tuple[int, str], ...]:
    wrong = sorted((r for group in others for r in group), key=lambda r: r.task_id)
    return tuple(
        (r.task_id, disagreements(manifest, largest[0].result, r.result, limit=1)[0]) for r in wrong
    )


def _groups(manifest: Manifest, ordered: Sequence[ComparedResult]) -> list[list[ComparedResult]]:
    """Results that agree with the first of their group."""
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
