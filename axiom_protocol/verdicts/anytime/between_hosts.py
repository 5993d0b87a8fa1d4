"""What hosts add to the scatter between seeds: a random-effects estimate.

The variance between hosts is Paule and Mandel's (1982), the interval of the mean over hosts that of
Hartung and Knapp (2001) and Sidik and Jonkman (2002), which keeps its level for few hosts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads its parts when they are used

POWER = 0.8  # with which a difference is said to be detectable


@dataclass(frozen=True, kw_only=True)
class BetweenHosts:
    """Hosts as a sample of hosts; of those with two seeds or more.

    mean, low, high  over hosts, and its interval
    sd               between hosts, beyond what their seeds explain
    p                of the hypothesis that hosts do not differ: one-way ANOVA
    detectable_sd    the least sd between hosts that the ANOVA finds with a power of ``POWER``
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
    """Compare hosts by their seeds' values; None when fewer than two have two, or none vary.

    ``alpha``: of the interval; ``level``: of the test whose power is stated.
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
    """Paule and Mandel's: that which makes the weighted squares as large as their mean."""

    def excess(tau2: float) -> float:
        weights = 1 / (variances + tau2)
        centre = float((weights * means).sum() / weights.sum())
        return float((weights * (means - centre) ** 2).sum()) - (len(means) - 1)

    if excess(0.0) <= 0:
        return 0.0
    most = float(((means - means.mean()) ** 2).sum())  # there the squares sum to at most 1
    return float(scipy.optimize.brentq(excess, 0.0, most, xtol=1e-300, rtol=1e-12))


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
    """The least sd between hosts, over that between seeds, that ANOVA finds with ``POWER``.

    Exact for hosts with n seeds each: F / (1 + n ratio^2) has Fisher's distribution. For others n
    is the usual effective size.
    """
    seeds, hosts = sum(sizes), len(sizes)
    each = (seeds - sum(n * n for n in sizes) / seeds) / (hosts - 1)
    needed = float(scipy.stats.f.isf(level, hosts - 1, seeds - hosts))
    reached = float(scipy.stats.f.isf(POWER, hosts - 1, seeds - hosts))
    return math.sqrt(max(0.0, needed / reached - 1) / each)
