"""Is a claim that was declared before the data true? From different seeds, one number a seed.

Configurations inside a run are not independent, and replicas of one seed are one sample, so neither
is ever counted. Confidence intervals are 95 %, by Student's t (shares: Clopper and Pearson's exact
one); sign consistency by the exact binomial test; heterogeneity between hosts by one-way ANOVA.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from axiom_protocol.agreement import disagreements
from axiom_protocol.manifest import Criterion, Field, Finding, Manifest
from axiom_protocol.result import Result

Verdict = Literal["confirmed", "rejected", "preliminary", "insufficient"]

SEEDS_MIN = 5  # fewer: no verdict
CONFIDENCE = 0.95
PASSING_SHARE_MIN = 0.5  # of seeds, through the experiment's own gates; of fewer, chance chose them
PROBES = 8  # seeds whose whole results are held against each other
HETEROGENEOUS_P = (
    0.001  # hosts differ by more than their seeds do: something but the claim is at work
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One gated result. ``parameters`` are complete: defaults overlaid with what was given."""

    task_id: int
    seed: int
    host_id: int
    parameters: Mapping[str, Any]
    result: Result


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """A finding with its numbers.

    seeds               different seeds with a valid result
    estimate, low, high the statistic's mean and its 95 % interval; NaN-free: None when unknown
    effect_size         paired: mean over standard deviation of (value - no effect)
    meeting             seeds that meet the criterion one by one
    sign_share, sign_p  seeds on the mean's side of "no effect", and its exact two-sided p
    heterogeneity_p     of the hypothesis that hosts do not differ
    """

    name: str
    claim: str
    verdict: Verdict
    reason: str
    seeds: int
    hosts: int
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    effect_size: float | None = None
    meeting: int = 0
    sign_share: float | None = None
    sign_p: float | None = None
    heterogeneity_p: float | None = None


def judge(
    manifest: Manifest, finding: Finding, samples: Sequence[Sample], *, seed_ignored: bool = False
) -> Verdicts:
    """The verdict on one finding. Samples may hold replicas, invalid runs and other parameters.

    ``seed_ignored`` is what ``is_seed_ignored`` says of the version: then all runs are one sample.
    """
    where = manifest.resolve(finding.where)
    asked = [s for s in samples if dict(s.parameters) == where]
    chosen = one_per_seed([s for s in asked if s.result["valid"] == 1])
    pairs = [(s, v) for s in chosen if (v := value_of(finding, s.result)) is not None]
    values = np.array([v for _, v in pairs], dtype=float)
    hosts = len({s.host_id for s, _ in pairs})
    if len(values) < SEEDS_MIN or seed_ignored:
        missing = SEEDS_MIN - len(values)
        reason = f"a verdict needs {missing} more seed{'s' if missing > 1 else ''}"
        if seed_ignored:
            reason = "different seeds give the same numbers, so all runs are one sample"
        return Verdicts(
            name=finding.name, claim=finding.claim, verdict="insufficient", reason=reason,
            seeds=len(values), hosts=hosts,
            estimate=float(values.mean()) if len(values) else None,
            meeting=sum(finding.criterion.met_by(v) for v in values.tolist()),
        )  # fmt: skip
    low, high = interval(finding, values)
    meeting = _meeting(finding, values)
    sign_share, sign_p = sign_consistency(finding, values)
    heterogeneity = between_hosts([(s.host_id, v) for s, v in pairs])
    ran = len({s.seed for s in asked})
    if len(chosen) < PASSING_SHARE_MIN * ran:
        verdict: Verdict = "preliminary"
        reason = f"only {len(chosen)} of {ran} seeds pass the experiment's own gates"
    else:
        verdict, reason = decide(finding, low, high, meeting, len(values), heterogeneity)
    return Verdicts(
        name=finding.name, claim=finding.claim, verdict=verdict, reason=reason,
        seeds=len(values), hosts=hosts, estimate=float(values.mean()), low=low, high=high,
        effect_size=effect_size(finding, values), meeting=meeting,
        sign_share=sign_share, sign_p=sign_p, heterogeneity_p=heterogeneity,
    )  # fmt: skip


def one_per_seed(samples: Sequence[Sample]) -> list[Sample]:
    """The first task's result of each seed, in the order of seeds."""
    first: dict[int, Sample] = {}
    for sample in sorted(samples, key=lambda s: s.task_id):
        first.setdefault(sample.seed, sample)
    return [first[seed] for seed in sorted(first)]


def is_seed_ignored(manifest: Manifest, probes: Sequence[Result]) -> bool:
    """Do whole results of different seeds agree like replicas of one, most of them?

    A script that draws everything from one fixed seed gives any number of hosts one sample, and an
    interval of no width. Results without a single number that could differ are not held against it.
    """
    if len(probes) < 2 or not _has_numbers(manifest.result.values()):
        return False
    distinct: list[Result] = []
    for probe in probes:
        if all(disagreements(manifest, probe, other, limit=1) for other in distinct):
            distinct.append(probe)
    return 2 * len(distinct) <= len(probes)


def _has_numbers(fields: Iterable[Field]) -> bool:
    return any(
        not f.chaotic and (f.kind == "number" or _has_numbers(f.fields.values())) for f in fields
    )


def value_of(finding: Finding, result: Result) -> float | None:
    """The seed's one number, or None where a ratio has no denominator."""
    value = float(result[finding.field])
    if finding.control is None:
        return value
    control = float(result[finding.control])
    if finding.statistic == "difference":
        return value - control
    return value / control if control != 0 else None


def no_effect(finding: Finding) -> float:
    """What the number would be if there were nothing to find."""
    return {"ratio": 1.0, "share": 0.5}.get(finding.statistic, 0.0)


def interval(finding: Finding, values: np.ndarray) -> tuple[float, float]:
    """The 95 % confidence interval of the mean, or of the share."""
    n = len(values)
    if finding.statistic == "share":
        exact = stats.binomtest(int(values.sum()), n).proportion_ci(CONFIDENCE, method="exact")
        return float(exact.low), float(exact.high)
    mean = float(values.mean())
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * float(values.std(ddof=1)) / n**0.5
    return mean - half, mean + half


def effect_size(finding: Finding, values: np.ndarray) -> float | None:
    """Cohen's d of paired samples; None for unpaired statistics, or where nothing varies."""
    spread = float(values.std(ddof=1))
    if finding.control is None or spread == 0:
        return None
    return (float(values.mean()) - no_effect(finding)) / spread


def sign_consistency(finding: Finding, values: np.ndarray) -> tuple[float | None, float | None]:
    """Share of seeds on the mean's side of no effect, and the exact binomial p of it."""
    if finding.statistic == "share":
        share = float(values.mean())
        return max(share, 1 - share), float(stats.binomtest(int(values.sum()), len(values)).pvalue)
    away = values - no_effect(finding)
    away = away[away != 0]  # ties say nothing
    if not len(away):
        return None, None
    same = int(np.sum(np.sign(away) == np.sign(away.mean())))
    return same / len(away), float(stats.binomtest(same, len(away)).pvalue)


def between_hosts(pairs: Sequence[tuple[int, float]]) -> float | None:
    """p of one-way ANOVA over hosts with two seeds or more; None when it cannot be computed."""
    groups: dict[int, list[float]] = {}
    for host_id, value in pairs:
        groups.setdefault(host_id, []).append(value)
    usable = [group for _, group in sorted(groups.items()) if len(group) > 1]
    within = sum(float(np.var(group)) for group in usable)
    if len(usable) < 2 or within == 0:
        return None
    p = float(stats.f_oneway(*usable).pvalue)
    return p if math.isfinite(p) else None


def decide(
    finding: Finding, low: float, high: float, meeting: int, seeds: int, heterogeneity: float | None
) -> tuple[Verdict, str]:
    """The verdict by the declared criterion, and the reason in words."""
    criterion = finding.criterion
    share = meeting / seeds
    if _outside(criterion, low, high):
        return "rejected", "the whole 95 % interval fails the criterion"
    if not (criterion.met_by(low) and criterion.met_by(high)):
        return "preliminary", "the 95 % interval does not meet the criterion as a whole yet"
    if finding.statistic != "share" and share < finding.min_share:
        return "preliminary", (
            f"the mean meets the criterion, but only {meeting} of {seeds} seeds do one by one"
        )
    if heterogeneity is not None and heterogeneity < HETEROGENEOUS_P:
        return "preliminary", f"hosts differ by more than chance (p = {heterogeneity:.1g})"
    return (
        "confirmed",
        f"the whole 95 % interval meets the criterion, and {meeting} of {seeds} seeds",
    )


def _meeting(finding: Finding, values: np.ndarray) -> int:
    if finding.statistic == "share":
        return int(values.sum())
    return sum(finding.criterion.met_by(v) for v in values.tolist())


def _outside(criterion: Criterion, low: float, high: float) -> bool:
    too_low = criterion.above is not None and high <= criterion.above
    too_high = criterion.below is not None and low >= criterion.below
    return too_low or too_high
