"""Compare results for one seed from several hosts: which agree, and which are outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from axiom_protocol.agreement import disagreements
from axiom_protocol.manifest import Manifest
from axiom_protocol.result import Result

RESULTS_MAX = 5  # without a majority by then, the experiment is at fault and no host


@dataclass(frozen=True, kw_only=True)
class ComparedResult:
    """One checked result of the workunit. ``trusted``: its host has agreed many times before."""

    task_id: int
    host_id: int
    result: Result
    trusted: bool = False


@dataclass(frozen=True, kw_only=True)
class ComparisonDecision:
    """The outcome of a comparison.

    verdict   agreed: a majority agrees; disputed: another result is needed; unsettled: still no
              majority, so the results are not reproducible and no host is at fault
    agreeing  tasks whose results agree
    outliers  (task, why) for the tasks that do not; their hosts get a mismatch
    """

    verdict: Literal["agreed", "disputed", "unsettled"]
    agreeing: tuple[int, ...] = ()
    outliers: tuple[tuple[int, str], ...] = ()
    note: str = ""


def compare(manifest: Manifest, results: Sequence[ComparedResult]) -> ComparisonDecision:
    """Compare two or more results for one seed, field by field.

    Two new hosts do not outvote a trusted one, because they may be two accounts of one cheater. A
    fourth result decides, from a trusted host where there is one.
    """
    ordered = sorted(results, key=lambda r: r.task_id)
    groups = _groups(manifest, ordered)
    largest, others = groups[0], groups[1:]
    outliers = [compared for group in others for compared in group]
    if not outliers:
        return ComparisonDecision(verdict="agreed", agreeing=_task_ids(largest))
    note = disagreements(manifest, largest[0].result, outliers[0].result, limit=1)[0]
    majority = len(largest) > len(others[0]) and len(largest) > 1
    doubtful = any(r.trusted for r in outliers) and not any(r.trusted for r in largest)
    if majority and (not doubtful or len(ordered) > RESULTS_MAX - 2):
        return ComparisonDecision(
            verdict="agreed",
            agreeing=_task_ids(largest),
            outliers=tuple(
                (r.task_id, disagreements(manifest, largest[0].result, r.result, limit=1)[0])
                for r in sorted(outliers, key=lambda r: r.task_id)
            ),
        )
    verdict: Literal["disputed", "unsettled"] = (
        "disputed" if len(ordered) < RESULTS_MAX else "unsettled"
    )
    return ComparisonDecision(verdict=verdict, note=note)


def _groups(manifest: Manifest, ordered: Sequence[ComparedResult]) -> list[list[ComparedResult]]:
    """Groups of results that agree with the first of their group; the largest group first."""
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
