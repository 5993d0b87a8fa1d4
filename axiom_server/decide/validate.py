"""Two or three results of one seed: which are believed, and which host is the outlier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from axiom_protocol.agreement import disagreements
from axiom_protocol.manifest import Manifest
from axiom_protocol.result import Result

OPINIONS_MAX = 3  # when no two of three agree, the experiment is at fault, not a host


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """One gated result of the workunit."""

    task_id: int
    host_id: int
    result: Result


@dataclass(frozen=True, kw_only=True)
class ComparisonDecision:
    """What follows.

    verdict   agreed: at least two agree; disputed: a third is needed; unsettled: no two of three
              agree, so the numbers are not reproducible and nobody is to blame
    agreeing  the tasks that agree
    outliers  (task, why), whose hosts are charged with a mismatch
    """

    verdict: Literal["agreed", "disputed", "unsettled"]
    agreeing: tuple[int, ...] = ()
    outliers: tuple[tuple[int, str], ...] = ()
    note: str = ""


def compare(manifest: Manifest, opinions: Sequence[Opinion]) -> ComparisonDecision:
    """Hold the results of one seed against each other, field by field. Two at least."""
    ordered = sorted(opinions, key=lambda o: o.task_id)
    first_difference = ""
    for a, b in combinations(ordered, 2):
        differences = disagreements(manifest, a.result, b.result, most=1)
        if not differences:
            return _around(manifest, a, ordered)
        first_difference = first_difference or differences[0]
    if len(ordered) < OPINIONS_MAX:
        return ComparisonDecision(verdict="disputed", note=first_difference)
    return ComparisonDecision(verdict="unsettled", note=first_difference)


def _around(manifest: Manifest, centre: Opinion, ordered: Sequence[Opinion]) -> ComparisonDecision:
    agreeing, outliers = [], []
    for opinion in ordered:
        differences = disagreements(manifest, centre.result, opinion.result, most=1)
        if differences:
            outliers.append((opinion.task_id, differences[0]))
        else:
            agreeing.append(opinion.task_id)
    return ComparisonDecision(verdict="agreed", agreeing=tuple(agreeing), outliers=tuple(outliers))
