"""Refine a study's grid: add parameter sets along the boundary that its pilot results show."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from axiom_protocol.manifest import Parameters
from axiom_protocol.verdicts.study_design import Refinement, StudyDesign, StudyFinding

SIGNIFICANT_DIGITS = 6  # of a new value, so that its text is the same on every machine


def refined(
    design: StudyDesign, refinement: Refinement, sets: Sequence[Parameters],
    means: Sequence[float | None],
) -> list[Parameters]:  # fmt: skip
    """New parameter sets, half way between neighbours on opposite sides of the finding's level.

    means  for each parameter set, the field's mean over the pilot's seeds; None: no result
    """
    finding = design.finding(refinement.finding)
    columns: dict[str, list[tuple[float, int]]] = {}
    for i, parameters in enumerate(sets):
        others = repr({k: v for k, v in sorted(parameters.items()) if k != finding.along})
        if means[i] is not None:
            at = design.coordinate(finding.along, parameters[finding.along])
            columns.setdefault(others, []).append((at, i))
    added = []
    for _, column in sorted(columns.items()):
        added += _between(design, finding, sets, means, [i for _, i in sorted(column)])
    return added


def _between(
    design: StudyDesign, finding: StudyFinding, sets: Sequence[Parameters],
    means: Sequence[float | None], column: Sequence[int],
) -> list[Parameters]:  # fmt: skip
    found = []
    for low, high in itertools.pairwise(column):
        above = [(means[i] or 0.0) > finding.level for i in (low, high)]
        if above[0] != above[1]:
            a, b = sets[low][finding.along], sets[high][finding.along]
            value = middle(a, b, log=design.axes[finding.along].scale == "log")
            if value not in (a, b):
                found.append({**sets[low], finding.along: value})
    return found


def middle(low: float, high: float, *, log: bool) -> float:
    """The middle of two values on the axis; a whole number when both are whole."""
    value = (low * high) ** 0.5 if log else (low + high) / 2
    if isinstance(low, int) and isinstance(high, int):
        return round(value)
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
