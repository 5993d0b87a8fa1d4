"""The mean of numbers with a declared bound, by betting.

Source: Waudby-Smith & Ramdas 2024, arXiv 2010.09686.

A gambler who bets the fraction f of his wealth that values lie above m has prod(1 + f (x - m) /
(m - low)) after them; under "the mean is at most m" that is a supermartingale for any
distribution above ``low``, whatever its tail on the other side. The wealth of several gamblers is
averaged (their "diversified Kelly" betting).
"""

from __future__ import annotations

import math

import numpy as np

#: The fractions that are bet: powers of 1/2. The best one of them reaches at least 94 % of the
#: growth of any fraction in between.
FRACTIONS = 0.5 ** np.arange(11)
STEPS = 60  # of the bisection of an interval's end: to the precision of a float


def log_e_above(values: np.ndarray, low: float, mean: float) -> float:
    """Log of the e-value against "the mean is at most ``mean``"; no value is below ``low``."""
    if mean <= low:  # only a constant at the bound has such a mean
        return math.inf if mean < low or bool(np.any(values > low)) else 0.0
    returns = np.maximum((values - mean) / (mean - low), -1.0)  # rounding may exceed the bound
    with np.errstate(divide="ignore"):  # a gambler that bets all loses all at the bound
        wealth = np.log1p(np.outer(FRACTIONS, returns)).sum(axis=1)
    return float(np.logaddexp.reduce(wealth)) - math.log(len(FRACTIONS))


def log_e_below(values: np.ndarray, high: float, mean: float) -> float:
    """Log of the e-value against "the mean is at least ``mean``"; no value is above ``high``."""
    return log_e_above(-values, -high, -mean)


def lower(values: np.ndarray, low: float, alpha: float) -> float:
    """The lower end of the confidence sequence: it ever exceeds the mean with a probability of at
    most ``alpha``."""
    threshold = math.log(1 / alpha)
    refuted, kept = low, max(low, float(values.mean()))
    for _ in range(STEPS):
        middle = (refuted + kept) / 2
        if log_e_above(values, low, middle) >= threshold:
            refuted = middle
        else:
            kept = middle
    return refuted


def upper(values: np.ndarray, high: float, alpha: float) -> float:
    """The upper end of the confidence sequence."""
    return -lower(-values, -high, alpha)
