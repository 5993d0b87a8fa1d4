"""The evidence for and against a finding, as e-values; see ``anytime``.

A finding claims two things: that the mean meets the criterion, and that a declared share of the
seeds meets it one by one. The evidence for the finding is the weaker of the two; the evidence
against it is their average.

If the number has a declared bound on a side, the mean is decided there by betting, which is valid
for any distribution. Without a bound no rule can decide a mean: one seed in a thousand may outweigh
all others (Bahadur & Savage 1956). Then the t-test decides, and only after it is shown that more
than ``TYPICAL`` of the seeds lie on that side of the criterion one by one. Thus extreme values in
5 % of the seeds or more are not overlooked; rarer ones can only be excluded by declaring bounds.

A seed that was issued and gave no number counts as the worst case: in the evidence for the claim,
as a value at the bound; in the evidence against it, as one that meets the criterion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from axiom_protocol.manifest import Criterion, Finding, Manifest
from axiom_protocol.verdicts.anytime import bounded, share, student

TYPICAL = 0.95  # share of seeds that must lie on the criterion's side where there is no bound
ALPHA = 0.05  # of an interval; half of it for false "confirmed", half for false verdicts against


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Logs of e-values for the claim about the mean and the claim about the share, and against
    each."""

    mean_for: float
    share_for: float
    mean_against: float
    share_against: float

    @property
    def confirming(self) -> float:
        """Log e against "the mean or the share fails the claim"."""
        return min(self.mean_for, self.share_for)

    @property
    def refuting(self) -> float:
        """Log e against "the mean and the share both meet the claim"."""
        return _average(self.mean_against, self.share_against)


NOTHING = Evidence(mean_for=0.0, share_for=0.0, mean_against=0.0, share_against=0.0)


def weigh(manifest: Manifest, finding: Finding, values: np.ndarray, missing: int) -> Evidence:
    """The evidence of ``values``, one for each seed, and of ``missing`` seeds without a value."""
    if finding.statistic == "share":
        return _of_share(finding, int(values.sum()), len(values), missing)
    bounds = support(manifest, finding)
    return weigh_numbers(finding.criterion, finding.min_share, values, missing, bounds)


def weigh_numbers(
    criterion: Criterion, needed: float, values: np.ndarray, missing: int,
    bounds: tuple[float, float],
) -> Evidence:  # fmt: skip
    """The evidence of numbers within ``bounds``; the share ``needed`` must meet the criterion."""
    (low, high), above, below = bounds, criterion.above, criterion.below
    sides_for, sides_against = [], []
    if above is not None:
        sides_for.append(mean_above(values, missing, low, above))
        sides_against.append(mean_below(values, missing, high, above))
    if below is not None:
        sides_for.append(mean_below(values, missing, high, below))
        sides_against.append(mean_above(values, missing, low, below))
    met, seeds = meeting_of(criterion, values), len(values) + missing
    return Evidence(
        mean_for=min(sides_for),
        share_for=share.log_e_above(met, seeds, needed) if needed > 0 else math.inf,
        mean_against=_average(*sides_against),
        share_against=share.log_e_below(met + missing, seeds, needed) if needed > 0 else -math.inf,
    )


def mean_above(values: np.ndarray, missing: int, low: float, border: float) -> float:
    """Log e against "the mean is at most ``border``"; no value is below ``low``."""
    if math.isfinite(low):
        return bounded.log_e_above(with_missing(values, missing, low), low, border)
    seeds = len(values) + missing
    typical = share.log_e_above(int((values > border).sum()), seeds, TYPICAL)
    return min(student.log_e_above(values, border), typical)


def mean_below(values: np.ndarray, missing: int, high: float, border: float) -> float:
    """Log e against "the mean is at least ``border``"; no value is above ``high``."""
    return mean_above(-values, missing, -high, -border)


def _of_share(finding: Finding, successes: int, seeds: int, missing: int) -> Evidence:
    """The evidence on a share, to which the criterion itself applies."""
    above, below = finding.criterion.above, finding.criterion.below
    possible, every = successes + missing, seeds + missing
    sides_for, sides_against = [], []
    if above is not None:
        sides_for.append(share.log_e_above(successes, every, above))
        sides_against.append(share.log_e_below(possible, every, above))
    if below is not None:
        sides_for.append(share.log_e_below(possible, every, below))
        sides_against.append(share.log_e_above(successes, every, below))
    return Evidence(
        mean_for=min(sides_for), share_for=math.inf,
        mean_against=_average(*sides_against), share_against=-math.inf,
    )  # fmt: skip


def interval(
    manifest: Manifest, finding: Finding, values: np.ndarray, missing: int
) -> tuple[float, float]:
    """The 95 % confidence sequence of the mean or the share: valid however often it is examined.

    Missing seeds count as values at the bound, on either side; on a side without a bound they are
    ignored.
    """
    if finding.statistic == "share":
        seeds = len(values) + missing
        low, _ = share.interval(int(values.sum()), seeds, ALPHA)
        return low, share.interval(int(values.sum()) + missing, seeds, ALPHA)[1]
    return interval_of_mean(values, missing, support(manifest, finding))


def interval_of_mean(
    values: np.ndarray, missing: int, bounds: tuple[float, float]
) -> tuple[float, float]:
    """The 95 % confidence sequence of the mean of numbers within ``bounds``."""
    low, high = bounds
    free_low, free_high = student.interval(values, ALPHA / 2)
    if math.isfinite(low):
        free_low = bounded.lower(with_missing(values, missing, low), low, ALPHA / 2)
    if math.isfinite(high):
        free_high = bounded.upper(with_missing(values, missing, high), high, ALPHA / 2)
    return free_low, free_high


def support(manifest: Manifest, finding: Finding) -> tuple[float, float]:
    """The bounds of the finding's number, from those declared for its fields."""
    low, high = manifest.result[finding.field].bounds
    if finding.control is None:
        return low, high
    control_low, control_high = manifest.result[finding.control].bounds
    if finding.statistic == "difference":
        return low - control_high, high - control_low
    if low < 0 or control_low < 0:
        return -math.inf, math.inf
    least = 0.0 if math.isinf(control_high) else low / control_high
    return least, high / control_low if control_low > 0 else math.inf


def meeting(finding: Finding, values: np.ndarray) -> int:
    """How many seeds meet the criterion one by one; for a share, those whose flag is 1."""
    if finding.statistic == "share":
        return int(values.sum())
    return meeting_of(finding.criterion, values)


def meeting_of(criterion: Criterion, values: np.ndarray) -> int:
    """How many of the numbers satisfy the criterion, each by itself."""
    above = -math.inf if criterion.above is None else criterion.above
    below = math.inf if criterion.below is None else criterion.below
    return int(((values > above) & (values < below)).sum())


def with_missing(values: np.ndarray, missing: int, bound: float) -> np.ndarray:
    """The values, and the bound for each seed that has none."""
    return np.concatenate([values, np.full(missing, bound)])


def _average(*log_e: float) -> float:
    """Log of the average of e-values, without those that the declaration makes always 0."""
    present: Sequence[float] = [e for e in log_e if e != -math.inf]
    if not present:
        return -math.inf
    return float(np.logaddexp.reduce(present)) - math.log(len(present))
