"""Estimates how much hosts differ beyond the scatter between seeds: a random-effects model.

The variance between hosts is Paule and Mandel's (1982), the interval of the mean over hosts that of
Hartung and Knapp (2001) and Sidik and Jonkman (2002), which keeps its level for few hosts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads its parts when they are used

POWER = 0.8  # of the test, at which a difference counts as detectable


@dataclass(frozen=True, kw_only=True)
class BetweenHosts:
    """The random-effects estimate from the ``hosts`` that have at least two seeds.

    mean, low, high  mean over hosts, and its confidence interval
    sd               standard deviation between hosts, beyond what their seeds explain
    p                of the hypothesis that hosts do not differ: one-way ANOVA
    detectable_sd    smallest sd between hosts that the ANOVA detects with a power of ``POWER``
    """

    hosts: int
    mean: float
    low: float
    high: float
    sd: float
    p: float
    detectable_sd: float


def compare(
    groups: Mapping[int, Sequence[float]], alpha: float, level: float
) -> BetweenHosts | None:
    """Compare hosts by their seeds' values; None if fewer than two have two, or none vary.

    groups  values of the seeds, by host
    alpha   of the confidence interval of the mean
    level   significance level of the ANOVA, for ``detectable_sd``
    """
    usable = [np.asarray(g, dtype=float) for _, g in sorted(groups.items()) if len(g) > 1]
    seeds = sum(map(len, usable))
    within = sum(float(((g - g.mean()) ** 2).sum()) for g in usable)
    if len(usable) < 2 or within == 0:
        return None
    p = float(scipy.stats.f_oneway(*usable).pvalue)
    if not math.isfinite(p):
        return None
    within /= seeds - len(usable)
    means = np.array([g.mean() for g in usable])
    variances = np.array([within / len(g) for g in usable])
    tau2 = between_variance(means, variances)
    mean, low, high = mean_over_hosts(means, variances, tau2, alpha)
    detectable = detectable_ratio([len(g) for g in usable], level) * math.sqrt(within)
    return BetweenHosts(
        hosts=len(usable), mean=mean, low=low, high=high, sd=math.sqrt(tau2), p=p,
        detectable_sd=detectable,
    )  # fmt: skip


def between_variance(means: np.ndarray, variances: np.ndarray) -> float:
    """The variance between hosts for which the weighted sum of squares has its expected value.

    Source: Paule & Mandel 1982.
    """

    def excess(tau2: float) -> float:
        weights = 1 / (variances + tau2)
        centre = float((weights * means).sum() / weights.sum())
        return float((weights * (means - centre) ** 2).sum()) - (len(means) - 1)

    if excess(0.0) <= 0:
        return 0.0
    highest = float(((means - means.mean()) ** 2).sum())  # there the squares sum to at most 1
    return float(scipy.optimize.brentq(excess, 0.0, highest, xtol=1e-300, rtol=1e-12))


def mean_over_hosts(
    means: np.ndarray, variances: np.ndarray, tau2: float, alpha: float
) -> tuple[float, float, float]:
    """The weighted mean and its interval. Source: Hartung & Knapp 2001, by Student's t."""
    weights = 1 / (variances + tau2)
    mean = float((weights * means).sum() / weights.sum())
    freedom = len(means) - 1
    spread = float((weights * (means - mean) ** 2).sum()) / (freedom * float(weights.sum()))
    half = float(scipy.stats.t.ppf(1 - alpha / 2, freedom)) * math.sqrt(spread)
    return mean, mean - half, mean + half


def detectable_ratio(sizes: Sequence[int], level: float) -> float:
    """The smallest ratio of the sd between hosts to that between seeds that ANOVA detects.

    Exact for hosts with n seeds each: F / (1 + n ratio^2) has Fisher's distribution. For unequal
    ``sizes``, n is the usual effective size.
    """
    seeds, hosts = sum(sizes), len(sizes)
    each = (seeds - sum(n * n for n in sizes) / seeds) / (hosts - 1)
    needed = float(scipy.stats.f.isf(level, hosts - 1, seeds - hosts))
    reached = float(scipy.stats.f.isf(POWER, hosts - 1, seeds - hosts))
    return math.sqrt(max(0.0, needed / reached - 1) / each)
