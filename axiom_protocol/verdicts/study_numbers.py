"""Computes one number from one seed's map: a contrast, or the slope of a trend or of a boundary.

All three are weighted sums of numbers with known bounds, so their own bounds are known too, and
their mean can be decided by betting (`anytime.bounded`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from axiom_protocol.manifest import Manifest, Parameters
from axiom_protocol.verdicts.study_design import StudyDesign, StudyFinding

#: The field's value for each parameter set, by the set's position; None where it is missing.
Map = Sequence[float | None]


def number_of(
    design: StudyDesign, finding: StudyFinding, sets: Sequence[Parameters], values: Map
) -> float | None:
    """The finding's number, or None where a parameter set that it needs has no value."""
    chosen = used(design, finding, sets)
    if any(values[i] is None for i in chosen):
        return None
    points, weights = _sum(design, finding, sets, lambda i: values[i] or 0.0)
    return float(np.dot(weights, points))


def bounds_of(
    design: StudyDesign, finding: StudyFinding, sets: Sequence[Parameters], manifest: Manifest
) -> tuple[float, float]:
    """The bounds of the finding's number for any seed."""
    _, weights = _sum(design, finding, sets, lambda _: 0.0)
    if finding.kind == "boundary":
        along = [design.coordinate(finding.along, sets[i][finding.along]) for i in sets_of(sets)]
        low, high = min(along), max(along)
    else:
        low, high = manifest.result[finding.field].bounds
    up, down = float(weights[weights > 0].sum()), float(weights[weights < 0].sum())
    return _scaled(up, low) + _scaled(down, high), _scaled(up, high) + _scaled(down, low)


def _scaled(weight: float, bound: float) -> float:
    return 0.0 if weight == 0 else weight * bound


def sets_of(sets: Sequence[Parameters]) -> range:
    """The positions of the sets."""
    return range(len(sets))


def used(design: StudyDesign, finding: StudyFinding, sets: Sequence[Parameters]) -> list[int]:
    """Positions of the parameter sets that a finding uses.

    Sets that a refinement added, after those of the grid, are used by boundaries only: they would
    unbalance means over the other axes.
    """
    chosen = [i for i in sets_of(sets) if holds(finding.where, sets[i])]
    if finding.kind == "boundary":
        return chosen
    chosen = [i for i in chosen if i < design.grid_size]
    if finding.kind == "trend":
        return chosen
    parts = (finding.high, finding.low)
    return [i for i in chosen if any(holds(part, sets[i]) for part in parts)]


def holds(part: Mapping[str, Any], parameters: Parameters) -> bool:
    """Whether a set has these values; a list means any of its values."""
    return all(
        parameters.get(name) in (value if isinstance(value, list) else [value])
        for name, value in part.items()
    )


def _sum(
    design: StudyDesign, finding: StudyFinding, sets: Sequence[Parameters],
    value: Callable[[int], float],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The terms of the finding's number and their weights."""
    chosen = used(design, finding, sets)
    if finding.kind == "contrast":
        return _contrast(finding, sets, chosen, value)
    if finding.kind == "trend":
        points = np.array([value(i) for i in chosen])
        return points, slope_weights([_at(design, finding.along, sets[i]) for i in chosen])
    edge = crossings(design, finding, sets, value)
    return np.array([y for _, y in edge]), slope_weights([x for x, _ in edge])


def _contrast(
    finding: StudyFinding, sets: Sequence[Parameters], chosen: Sequence[int],
    value: Callable[[int], float],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    high = np.array([holds(finding.high, sets[i]) for i in chosen], dtype=float)
    low = np.array([holds(finding.low, sets[i]) for i in chosen], dtype=float)
    points = np.array([value(i) for i in chosen])
    return points, high / max(1.0, high.sum()) - low / max(1.0, low.sum())


def slope_weights(x: Sequence[float]) -> np.ndarray:
    """The weights w for which w . y is the least-squares slope of y against x."""
    away = np.asarray(x) - np.mean(x)
    return np.asarray(away / (away @ away))


def crossings(
    design: StudyDesign, finding: StudyFinding, sets: Sequence[Parameters],
    value: Callable[[int], float],
) -> list[tuple[float, float]]:  # fmt: skip
    """(over, along) of the boundary, on the scales of the axes, one for each value of ``over``."""
    columns: dict[float, list[tuple[float, float]]] = {}
    for i in used(design, finding, sets):
        over, along = (_at(design, name, sets[i]) for name in (finding.over, finding.along))
        columns.setdefault(over, []).append((along, value(i)))
    return [(over, crossing(sorted(columns[over]), finding.level)) for over in sorted(columns)]


def crossing(column: Sequence[tuple[float, float]], level: float) -> float:
    """Where the linear interpolation of (x, y) crosses the level; the mean of several crossings.

    Without a crossing it is the end of the axis at which y is nearer to the level.
    """
    x, y = np.array(column).T
    above = y > level
    found = [
        float(x[i] + (x[i + 1] - x[i]) * (level - y[i]) / (y[i + 1] - y[i]))
        for i in range(len(x) - 1)
        if above[i] != above[i + 1]
    ]
    if found:
        return float(np.mean(found))
    return float(x[0] if abs(y[0] - level) < abs(y[-1] - level) else x[-1])


def _at(design: StudyDesign, axis: str, parameters: Parameters) -> float:
    return design.coordinate(axis, parameters[axis])
