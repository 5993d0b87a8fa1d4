"""The share of seeds that meet a criterion: a mixture of likelihood ratios.

Against "the share is at most p0" each ratio L(p) / L(p0) with p > p0 is an e-process, and so is
their mixture over Jeffreys' prior cut off at p0 (the beta-binomial mixture of Robbins 1970, made
one-sided: shares that would be no evidence against the hypothesis get no weight).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import scipy  # loads its parts when they are used

PRIOR = 0.5  # Jeffreys' Beta(1/2, 1/2): dense near 0 and 1, as claims about "all seeds" need
TOLERANCE = 1e-6  # of an interval's ends


def log_e_above(successes: int, seeds: int, share: float) -> float:
    """Log of the e-value against "the share is at most ``share``".

    For a ``share`` of 0 one success is infinite evidence; for 1 there can be none (-inf).
    """
    if share >= 1:
        return -math.inf
    if share <= 0:
        return math.inf if successes else 0.0
    failures = seeds - successes
    a, b = successes + PRIOR, failures + PRIOR
    mixed = float(scipy.special.betaln(a, b)) + _log_upper(a, b, share)
    prior = float(scipy.special.betaln(PRIOR, PRIOR)) + _log_upper(PRIOR, PRIOR, share)
    return mixed - prior - successes * math.log(share) - failures * math.log1p(-share)


def log_e_below(successes: int, seeds: int, share: float) -> float:
    """Log of the e-value against "the share is at least ``share``"."""
    return log_e_above(seeds - successes, seeds, 1 - share)


def interval(successes: int, seeds: int, alpha: float) -> tuple[float, float]:
    """The confidence sequence at ``seeds``: it ever misses the share with a probability of at most
    ``alpha``."""
    threshold = math.log(2 / alpha)
    low = _root(lambda p: log_e_above(successes, seeds, p) - threshold, 0.0, successes / seeds)
    failures = seeds - successes
    high = _root(lambda p: log_e_above(failures, seeds, p) - threshold, 0.0, failures / seeds)
    return low, 1 - high


def _log_upper(a: float, b: float, share: float) -> float:
    """Log of the Beta(a, b) mass above ``share``."""
    mass = float(scipy.special.betaincc(a, b, share))
    if mass > 0:
        return math.log(mass)
    # The mass is so small that it underflows: the density at the edge bounds it from below.
    edge = a * math.log(share) + b * math.log1p(-share) - float(scipy.special.betaln(a, b))
    return edge - math.log(a + b)


def _root(excess: Callable[[float], float], refuted: float, kept: float) -> float:
    """The largest refuted share, by bisection between a refuted one and one that is not."""
    if kept <= refuted or excess(refuted + TOLERANCE) < 0:
        return refuted
    while kept - refuted > TOLERANCE:
        middle = (refuted + kept) / 2
        if excess(middle) >= 0:
            refuted = middle
        else:
            kept = middle
    return refuted
