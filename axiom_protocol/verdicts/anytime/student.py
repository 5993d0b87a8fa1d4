"""The mean of numbers without bounds: the sequential t-test (Wang & Ramdas 2025, arXiv 2310.03722).

The t-statistic's likelihood ratio of a Gaussian mixture over effect sizes mu / sigma ~ N(0, 1 /
PRECISION) to no effect (Lai 1976; their theorem on Gaussian mixtures): exact for normal values of
any spread. No test of a mean without bounds is valid for every distribution (Bahadur & Savage
1956), so callers must guard it against rare, large values; see ``findings.py``.
"""

from __future__ import annotations

import math

import numpy as np

PRECISION = 1.0  # of the mixture: effects of about one standard deviation


def log_e(values: np.ndarray, mean: float) -> float:
    """Log of the e-value against "the mean is ``mean``", two-sided. Needs two values."""
    n = len(values)
    away, spread = float(values.mean()) - mean, float(values.var())
    if spread == 0 or n < 2:
        return math.inf if away != 0 and n > 1 else 0.0
    kept = PRECISION / (PRECISION + n)
    ratio = away * away / spread  # t^2 / (n - 1)
    return 0.5 * math.log(kept) + 0.5 * n * (math.log1p(ratio) - math.log1p(kept * ratio))


def log_e_above(values: np.ndarray, mean: float) -> float:
    """Log of the e-value against "the mean is at most ``mean``": the lowest of all such means."""
    return log_e(values, min(mean, float(values.mean())))


def log_e_below(values: np.ndarray, mean: float) -> float:
    """Log of the e-value against "the mean is at least ``mean``"."""
    return log_e_above(-values, -mean)


def interval(values: np.ndarray, alpha: float) -> tuple[float, float]:
    """The confidence sequence at these values; infinite while there are too few."""
    n, middle = len(values), float(values.mean())
    kept = PRECISION / (PRECISION + n)
    grown = (1 / (alpha * math.sqrt(kept))) ** (2 / n)
    if grown * kept >= 1:
        return -math.inf, math.inf
    half = math.sqrt(float(values.var()) * (grown - 1) / (1 - grown * kept))
    return middle - half, middle + half
