"""The verdict rule of 0.1.0, kept to show its verdicts beside those of the present rule.

It uses a 95 % interval for a fixed number of seeds whenever it is applied, so applying it often
decides most claims falsely: ``python -m tests.science.verdicts`` measures how often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy  # loads its parts when they are used

from axiom_protocol.manifest import Criterion, Finding

FixedVerdict = Literal["confirmed", "rejected", "preliminary", "insufficient"]

SEEDS_MIN = 5
CONFIDENCE = 0.95


def fixed_verdict(finding: Finding, values: Sequence[float], *, sound: bool = True) -> FixedVerdict:
    """The verdict of 0.1.0 on these values, one for each seed.

    sound  false if too many runs fail their gates or hosts differ: then nothing is confirmed
    """
    if len(values) < SEEDS_MIN:
        return "insufficient"
    low, high = interval(finding, np.array(values, dtype=float))
    if outside(finding.criterion, low, high):
        return "rejected"
    meeting = sum(finding.criterion.met_by(v) for v in values)
    met = finding.criterion.met_by(low) and finding.criterion.met_by(high)
    if not met or not sound:
        return "preliminary"
    if finding.statistic != "share" and meeting < finding.min_share * len(values):
        return "preliminary"
    return "confirmed"


def interval(finding: Finding, values: np.ndarray) -> tuple[float, float]:
    """The 95 % confidence interval of the mean, or of the share, at a fixed number of seeds."""
    n = len(values)
    if finding.statistic == "share":
        exact = scipy.stats.binomtest(int(values.sum()), n).proportion_ci(
            CONFIDENCE, method="exact"
        )
        return float(exact.low), float(exact.high)
    mean = float(values.mean())
    quantile = float(scipy.special.stdtrit(n - 1, (1 + CONFIDENCE) / 2))  # Student's t
    half = quantile * float(values.std(ddof=1)) / n**0.5
    return mean - half, mean + half


def outside(criterion: Criterion, low: float, high: float) -> bool:
    """Whether the whole interval fails the criterion on one side."""
    too_low = criterion.above is not None and high <= criterion.above
    too_high = criterion.below is not None and low >= criterion.below
    return too_low or too_high
