"""Results that fit an experiment's schema, drawn from a seed: no network is trained for them.

What findings are judged by lies around their criteria, most of it inside, so that pages show all
kinds of verdicts. Lists and records are empty.
"""

from __future__ import annotations

import random
from typing import Any

from axiom_protocol.manifest import Criterion, Field, Finding, Manifest

CONFIGS_DONE = 8


def result(manifest: Manifest, seed: int) -> dict[str, Any]:
    """A result of one seed that passes the gate."""
    drawn = random.Random(f"{manifest.ref} {seed}")
    values = {name: _number(field, drawn) for name, field in manifest.result.items()}
    for finding in manifest.findings:
        _meet(manifest, finding, values, drawn)
    done = _fitting(manifest.result["configs_done"], CONFIGS_DONE)
    return values | {"valid": 1, "configs_done": done}


def _number(field: Field, drawn: random.Random) -> Any:
    if field.kind == "records" or field.dims:
        return []
    if field.kind == "flag":
        return int(drawn.random() < 0.95)
    low, high = _bounds(field)
    return _fitting(field, drawn.uniform(low, high))


def _bounds(field: Field) -> tuple[float, float]:
    low = -1.0 if field.min is None else field.min
    return low, min(low + 2.0 if field.max is None else field.max, low + 50.0)


def _fitting(field: Field, value: float) -> float | int:
    low, high = field.bounds
    value = min(max(value, low), high)
    return round(value) if field.kind in ("integer", "flag") else value


def _meet(
    manifest: Manifest, finding: Finding, values: dict[str, Any], drawn: random.Random
) -> None:
    """Set the finding's field to what its criterion asks for, within its bounds."""
    if finding.statistic == "share":
        return
    wanted = _inside(finding, drawn)
    control = values.get(finding.control or "", 0.0)
    if finding.statistic == "difference":
        wanted += control
    elif finding.statistic == "ratio":
        wanted *= control
    values[finding.field] = _fitting(manifest.result[finding.field], wanted)


def _inside(finding: Finding, drawn: random.Random) -> float:
    """A number of the finding: in the region of its criterion, on its border or outside."""
    low, high = _reach(finding.criterion)
    middle = low + (high - low) * random.Random(finding.name).uniform(-0.2, 1.0)
    return drawn.gauss(middle, (high - low) * 0.06)


def _reach(criterion: Criterion) -> tuple[float, float]:
    above, below = criterion.above, criterion.below
    if above is None:
        assert below is not None
        return below - max(abs(below), 0.2), below
    return above, above + max(abs(above), 0.2) if below is None else below
