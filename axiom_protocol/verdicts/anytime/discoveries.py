"""Decides many claims at once by e-BH (Wang & Ramdas 2022, arXiv 2009.02824).

The expected share of false decisions is at most alpha, however the claims depend on one another. If
every claim is exactly on its border, this is the probability of any false decision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def discoveries(log_e: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses the e-values reject: the largest k with e_(k) >= K / (k alpha), of K."""
    order = sorted(range(len(log_e)), key=lambda i: (-log_e[i], i))
    rejected = 0
    for k, i in enumerate(order, 1):
        if log_e[i] >= math.log(len(log_e) / (k * alpha)):
            rejected = k
    chosen = set(order[:rejected])
    return [i in chosen for i in range(len(log_e))]
