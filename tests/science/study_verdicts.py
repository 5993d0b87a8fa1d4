"""How often a study's verdicts are false when somebody looks at every second seed.

A seed of a study gives a whole map, and one number for each finding: a contrast, or the slope of a
trend or boundary. Here maps are drawn whose truth is known. They are judged by the server's
``judge_study`` and, for comparison, by a 95 % interval for a fixed number of seeds at every look,
as 0.1.0 judged findings (it had no studies).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from axiom_protocol.manifest import Criterion, Field, Finding, Manifest
from axiom_protocol.verdicts.fixed_rule import fixed_verdict
from axiom_protocol.verdicts.study_design import Axis, StudyDesign, StudyFinding
from axiom_protocol.verdicts.study_verdicts import Cell, StudyData, judge_study

FIRST, LAST = 5, 61
LOOKS = range(FIRST, LAST + 1, 2)
POINTS = (-1.0, 0.0, 1.0)  # of both axes
SEED = 20_261_127
SLOPE = 0.2  # of trends and boundaries, the truth
DECIDED = frozenset({"confirmed", "rejected", "fails seed by seed"})

Map = np.ndarray  # [x, y] of one seed
Draw = Callable[[np.random.Generator], Map]


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyRow:
    """The truth about maps, the claim about them, and which verdicts are false.

    copies  number of such fields, each with a finding, that are decided together
    lost    probability that a map which fails the claim never becomes complete
    """

    name: str
    draw: Draw
    finding: dict[str, Any]
    above: float
    false: frozenset[str] = DECIDED
    min_share: float = 0.0
    copies: int = 1
    lost: float = 0.0

    @cache  # noqa: B019 - rows are constants of this module
    def design(self) -> StudyDesign:
        found = [
            StudyFinding(
                name=f"claim_{i}", claim="It is so.", field=f"value_{i}",
                min_share=self.min_share,
                criterion=Criterion(above=self.above), **self.finding,
            )
            for i in range(self.copies)
        ]  # fmt: skip
        axes = {"x": Axis(values=list(POINTS)), "y": Axis(values=list(POINTS))}
        return StudyDesign(
            name="known", experiment="known", question="Is it?", seeds=LAST, axes=axes,
            findings=found,
        )  # fmt: skip

    @cache  # noqa: B019
    def manifest(self) -> Manifest:
        fields = {f"value_{i}": Field(min=-1.0, max=1.0) for i in range(self.copies)}
        fields |= {name: Field() for name in ("valid", "configs_done")}
        return Manifest(
            name="known", version="1.0.0", title="Known", question="Is it?",
            expected_seconds=1.0, result=fields,
        )  # fmt: skip


def noise(rng: np.random.Generator, width: float) -> Map:
    return rng.uniform(-width, width, (len(POINTS), len(POINTS)))


def step(height: float) -> Draw:
    """``height`` higher at x = 1 than at x = -1, on average."""
    x = np.array(POINTS)[:, None]
    return lambda rng: height / 2 * x + noise(rng, 0.5)


def rare_steps(share: float) -> Draw:
    """0.4 higher at x = 1 than at x = -1 in a share of the seeds, and 0.04 lower in the others."""
    x = np.array(POINTS)[:, None]
    return lambda rng: (0.2 if rng.random() < share else -0.02) * x + noise(rng, 1e-3)


def border(slope: float) -> Draw:
    """Crosses 0 at y = slope * x, within 0.6; linear in y, so that the crossing is read exactly."""
    x, y = np.array(POINTS)[:, None], np.array(POINTS)[None, :]

    def draw(rng: np.random.Generator) -> Map:
        moved = rng.uniform(-0.6, 0.6, (len(POINTS), 1))
        return (y - slope * x - moved) / 4

    return draw


CONTRAST: dict[str, Any] = {"kind": "contrast", "high": {"x": 1.0}, "low": {"x": -1.0}}
TREND: dict[str, Any] = {"kind": "trend", "along": "x"}
BOUNDARY: dict[str, Any] = {"kind": "boundary", "along": "y", "over": "x"}
CONFIRMED = frozenset({"confirmed"})

STUDY_ROWS = (
    StudyRow(name="contrast on its criterion", draw=step(0.2), finding=CONTRAST, above=0.2),
    StudyRow(name="trend on its criterion", draw=step(2 * SLOPE), finding=TREND, above=SLOPE),
    StudyRow(name="boundary on its criterion", draw=border(SLOPE), finding=BOUNDARY, above=SLOPE),
    StudyRow(name="contrast that 80 % of maps meet, 90 claimed", draw=rare_steps(0.8),
             finding=CONTRAST, above=0.0, min_share=0.9, false=CONFIRMED),
    StudyRow(name="the same, 70 % of the failing maps are never complete", draw=rare_steps(0.8),
             finding=CONTRAST, above=0.0, min_share=0.9, false=CONFIRMED, lost=0.7),
    StudyRow(name="any of ten contrasts on their criterion", draw=step(0.2), finding=CONTRAST,
             above=0.2, copies=10),
)  # fmt: skip


def looks(row: StudyRow, rng: np.random.Generator) -> Iterator[tuple[set[str], set[str]]]:
    """The verdicts at each look at one project's maps: of the old rule, and of the server's."""
    maps = [[row.draw(rng) for _ in range(row.copies)] for _ in range(LAST)]
    there = [rng.random() >= row.lost or _meets(row, of_seed[0]) for of_seed in maps]
    for n in LOOKS:
        yield judged(row, {seed: maps[seed] for seed in range(n) if there[seed]}, n)


def _meets(row: StudyRow, drawn: Map) -> bool:
    return float(drawn[-1].mean() - drawn[0].mean()) > row.above


def judged(row: StudyRow, maps: dict[int, list[Map]], planned: int) -> tuple[set[str], set[str]]:
    """The verdicts of both rules on ``planned`` seeds, of which these maps have returned."""
    cells = [
        Cell(position=i, seed=seed, values={f"value_{k}": float(m.flat[i]) for k, m in found})
        for seed, of_seed in maps.items()
        for found in [list(enumerate(of_seed))]
        for i in range(len(POINTS) ** 2)
    ]
    design = row.design()
    data = StudyData(
        design=design, manifest=row.manifest(), sets=design.sets(), seeds=range(planned),
        cells=cells,
    )  # fmt: skip
    old = {_old(finding, list(data.numbers(finding).values())) for finding in design.findings}
    return old, {verdict.verdict for verdict in judge_study(data)}


def _old(finding: StudyFinding, numbers: list[float]) -> str:
    alike = Finding(
        name=finding.name, claim=finding.claim, field=finding.field,
        criterion=finding.criterion, min_share=finding.min_share,
    )  # fmt: skip
    return fixed_verdict(alike, numbers)


def study_rates(row: StudyRow, paths: int) -> tuple[float, float]:
    """Share of projects in which any look ever gives a false verdict, by the old rule and new."""
    rng = np.random.default_rng(SEED)
    old = new = 0
    for _ in range(paths):
        seen = list(looks(row, rng))
        old += any(by_old & row.false for by_old, _ in seen)
        new += any(by_new & row.false for _, by_new in seen)
    return old / paths, new / paths
