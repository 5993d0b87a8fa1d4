"""Results of one seed held against each other: which are believed, and who is the outlier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from axiom_protocol.agreement import disagreements
from axiom_protocol.manifest import Manifest
from axiom_protocol.result import Result

OPINIONS_MAX = 5  # when there is no majority by then, the experiment is at fault, not a host


@dataclass(frozen=True, kw_only=True)
class Opinion:
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


def compare(manifest: Manifest, opinions: Sequence[Opinion]) -> ComparisonDecision:
    """Hold the results of one seed against each other, field by field. Two at least.

    Two new hosts do not outvote a trusted one: two accounts of one liar would. A fourth opinion,
    which a trusted host gives where there is one, decides.
    """
    ordered = sorted(opinions, key=lambda o: o.task_id)
    camps = _camps(manifest, ordered)
    largest, others = camps[0], camps[1:]
    outliers = [opinion for camp in others for opinion in camp]
    if not outliers:
        return ComparisonDecision(verdict="agreed", agreeing=_tasks(largest))
    note = disagreements(manifest, largest[0].result, outliers[0].result, most=1)[0]
    majority = len(largest) > len(others[0]) and len(largest) > 1
    doubtful = any(o.trusted for o in outliers) and not any(o.trusted for o in largest)
    if majority and (not doubtful or len(ordered) > OPINIONS_MAX - 2):
        return ComparisonDecision(
            verdict="agreed",
            agreeing=_tasks(largest),
            outliers=tuple(
                (o.task_id, disagreements(manifest, largest[0].result, o.result, most=1)[0])
                for o in sorted(outliers, key=lambda o: o.task_id)
            ),
        )
    verdict: Literal["disputed", "unsettled"] = (
        "disputed" if len(ordered) < OPINIONS_MAX else "unsettled"
    )
    return ComparisonDecision(verdict=verdict, note=note)


def _camps(manifest: Manifest, ordered: Sequence[Opinion]) -> list[list[Opinion]]:
    """Opinions that agree with the first of their camp; the largest camp first."""
    camps: list[list[Opinion]] = []
    for opinion in ordered:
        for camp in camps:
            if not disagreements(manifest, camp[0].result, opinion.result, most=1):
                camp.append(opinion)
                break
        else:
            camps.append([opinion])
    return sorted(camps, key=lambda camp: (-len(camp), camp[0].task_id))


def _tasks(camp: Sequence[Opinion]) -> tuple[int, ...]:
    return tuple(opinion.task_id for opinion in camp)
