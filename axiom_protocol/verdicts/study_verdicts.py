"""The verdicts on a study: one number for each finding and seed, decided together by e-BH.

A study is a family of claims of its own: at most 5 % of its decisions are expected to be false.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct

from axiom_protocol import text
from axiom_protocol.manifest import Manifest, Parameters
from axiom_protocol.verdicts import evidence
from axiom_protocol.verdicts.evidence import NOTHING, Evidence
from axiom_protocol.verdicts.findings import (
    DECIDED_LOG_E,
    SEEDS_MIN,
    Decision,
    Verdict,
    decide,
    seeds_needed,
)
from axiom_protocol.verdicts.study_design import StudyDesign, StudyFinding
from axiom_protocol.verdicts.study_numbers import bounds_of, number_of


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One valid, settled result of a parameter set (by its position) and a seed."""

    position: int
    seed: int
    values: Mapping[str, float]


class StudyVerdict(Struct, frozen=True, kw_only=True):
    """A finding with its numbers; fields are those of `findings.Verdicts`.

    planned  seeds that were issued to be judged; those without a number are ``missing``
    out      workunits that are not complete yet
    """

    name: str
    claim: str
    kind: str
    verdict: Verdict
    reason: str
    seeds: int
    planned: int
    missing: int
    out: int
    estimate: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    meeting: int = 0
    log_e_for: float | None = None
    log_e_against: float | None = None


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """A study with all results so far.

    sets   every parameter set, those of refinement too
    seeds  the seeds to be judged, in order
    cells  the results
    out    number of workunits of these seeds that have no result yet
    """

    design: StudyDesign
    manifest: Manifest
    sets: Sequence[Parameters]
    seeds: Sequence[int]
    cells: Sequence[Cell]
    out: int = 0

    def maps(self, field: str) -> dict[int, list[float | None]]:
        """The field's values for all parameter sets, by seed."""
        found: dict[int, list[float | None]] = {s: [None] * len(self.sets) for s in self.seeds}
        for cell in self.cells:
            if cell.seed in found:
                found[cell.seed][cell.position] = cell.values[field]
        return found

    def numbers(self, finding: StudyFinding) -> dict[int, float]:
        """The finding's number by seed, without the seeds that have none."""
        maps = self.maps(finding.field)
        numbers = {s: number_of(self.design, finding, self.sets, m) for s, m in maps.items()}
        return {seed: number for seed, number in numbers.items() if number is not None}


def judge_study(data: StudyData) -> list[StudyVerdict]:
    """The verdicts on all findings, in their order."""
    found = data.design.findings
    numbers = [np.array(list(data.numbers(f).values()), dtype=float) for f in found]
    weighed = [_weigh(data, f, n) for f, n in zip(found, numbers, strict=True)]
    decisions = decide(weighed)
    return [_verdict(data, *each) for each in zip(found, numbers, weighed, decisions, strict=True)]


def _weigh(data: StudyData, finding: StudyFinding, numbers: np.ndarray) -> Evidence:
    if len(numbers) < SEEDS_MIN or data.out:
        return NOTHING
    missing = len(data.seeds) - len(numbers)
    bounds = bounds_of(data.design, finding, data.sets, data.manifest)
    return evidence.weigh_numbers(finding.criterion, finding.min_share, numbers, missing, bounds)


def _verdict(
    data: StudyData, finding: StudyFinding, numbers: np.ndarray, weighed: Evidence,
    decision: Decision,
) -> StudyVerdict:  # fmt: skip
    missing, meeting = len(data.seeds) - len(numbers), 0
    low, high, enough = -math.inf, math.inf, len(numbers) >= SEEDS_MIN
    if len(numbers):
        meeting = evidence.meeting_of(finding.criterion, numbers)
    if enough:
        bounds = bounds_of(data.design, finding, data.sets, data.manifest)
        low, high = evidence.interval_of_mean(numbers, missing, bounds)
    verdict, reason = _worded(data, finding, len(numbers), meeting, decision)
    if verdict == "preliminary" and weighed.confirming >= DECIDED_LOG_E:
        reason = "decided by itself, but not yet together with the study's other findings"
    return StudyVerdict(
        name=finding.name, claim=finding.claim, kind=finding.kind, verdict=verdict, reason=reason,
        seeds=len(numbers), planned=len(data.seeds), missing=missing, out=data.out,
        estimate=float(numbers.mean()) if len(numbers) else None,
        sd=float(numbers.std(ddof=1)) if enough else None,
        low=low if math.isfinite(low) else None, high=high if math.isfinite(high) else None,
        meeting=meeting, log_e_for=_finite(weighed.confirming),
        log_e_against=_finite(weighed.refuting),
    )  # fmt: skip


def _worded(
    data: StudyData, finding: StudyFinding, seeds: int, meeting: int, decision: Decision
) -> tuple[Verdict, str]:
    if data.out:
        return "preliminary", f"{text.counted(data.out, 'workunit')} of the study not reported yet"
    if seeds < SEEDS_MIN:
        more = text.counted(SEEDS_MIN - seeds, "more seed")
        return "insufficient", f"a verdict needs {more} with a complete map"
    if decision == "rejected":
        return "rejected", "the mean fails the criterion"
    if decision == "fails seed by seed":
        return decision, f"{meeting} of {seeds} seeds meet the criterion one by one"
    if decision == "confirmed":
        return "confirmed", f"the mean meets the criterion, and so do {meeting} of {seeds} seeds"
    more_seeds = seeds_needed(meeting, len(data.seeds), finding.min_share)
    ahead = "" if not more_seeds else f"; about {text.counted(more_seeds, 'seed')} more are needed"
    return "preliminary", f"not decided by {seeds} seeds, {meeting} of which meet it{ahead}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
