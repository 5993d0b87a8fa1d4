"""Results of one seed held against each other: which are believed, and who is the outlier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from axiom_protocol.agreement import disagreements
from axiom_protocol.manifest import Manifest
from axiom_protocol.result import Result

RESULTS_MAX = 5  # when there is no majority by then, the experiment is at fault, not a host


@dataclass(frozen=True, kw_only=True)
class ComparedResult:
    """One gated result of the workunit. ``trusted``: its host has agreed with others for long."""

    task_id: int
    host_id: int
    result: Result
    trusted: bool = False


@dataclass(frozen=True, kw_only=True)
class ComparisonDecision:
    """What follows.

    verdict   agreed: most agree; disputed: another opinion is needed; unsettled: there is still no
              majority, so the numbers are not reproducible and nobody is to blame
    agreeing  the tasks that agree
    outliers  (task, why), whose hosts are charged with a mismatch
    """

    verdict: Literal["agreed", "disputed", "unsettled"]
    agreeing: tuple[int, ...] = ()
    outliers: tuple[tuple[int, str], ...] = ()
    note: str = ""


def compare(manifest: Manifest, results: Sequence[ComparedResult]) -> ComparisonDecision:
    """Hold the results of one seed against each other, field by field. Two at least.

    Two new hosts do not outvote a trusted one: two accounts of one liar would. A fourth opinion,
    which a trusted host gives where there is one, decides.
    """
    ordered = sorted(results, key=lambda o: o.task_id)
    groups = _groups(manifest, ordered)
    largest, others = groups[0], groups[1:]
    outliers = [compared for group in others for compared in group]
    if not outliers:
        return ComparisonDecision(verdict="agreed", agreeing=_task_ids(largest))
    note = disagreements(manifest, largest[0].result, outliers[0].result, limit=1)[0]
    majority = len(largest) > len(others[0]) and len(largest) > 1
    doubtful = any(o.trusted for o in outliers) and not any(o.trusted for o in largest)
    if majority and (not doubtful or len(ordered) > RESULTS_MAX - 2):
        return ComparisonDecision(
            verdict="agreed",
            agreeing=_task_ids(largest),
            outliers=tuple(
                (o.task_id, disagreements(manifest, largest[0].result, o.result, limit=1)[0])
                for o in sorted(outliers, key=lambda o: o.task_id)
            ),
        )
    verdict: Literal["disputed", "unsettled"] = (
        "disputed" if len(ordered) < RESULTS_MAX else "unsettled"
    )
    return ComparisonDecision(verdict=verdict, note=note)


def _groups(manifest: Manifest, ordered: Sequence[ComparedResult]) -> list[list[ComparedResult]]:
    """Opinions that agree with the first of their camp; the largest camp first."""
    groups: list[list[ComparedResult]] = []
    for compared in ordered:
        for group in groups:
            if not disagreements(manifest, group[0].result, compared.result, limit=1):
                group.append(compared)
                break
        else:
            groups.append([compared])
    return sorted(groups, key=lambda group: (-len(group), group[0].task_id))


def _task_ids(group: Sequence[ComparedResult]) -> tuple[int, ...]:
    return tuple(compared.task_id for compared in group)
