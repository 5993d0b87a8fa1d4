"""Null curves, on which detectors must find nothing: 60 of each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.floating[Any]]
COUNT = 60
FALSE_ALARMS_MAX = 0.02  # share of each kind


def smooth_decay(rng: np.random.Generator, n: int) -> Curve:
    fall: Curve = np.exp(-np.linspace(0, 1, n) / rng.uniform(0.03, 1.0))
    return fall + rng.uniform(0, 0.3)


def power_law(rng: np.random.Generator, n: int) -> Curve:
    fall: Curve = (1.0 + np.arange(n)) ** -rng.uniform(0.1, 2.0)
    return fall


def white_noise(rng: np.random.Generator, n: int) -> Curve:
    noise: Curve = np.abs(1.0 + rng.uniform(0.02, 1.5) * rng.standard_normal(n))
    return noise


def random_walk(rng: np.random.Generator, n: int) -> Curve:
    walk: Curve = np.abs(
        1.0 + rng.uniform(0.1, 5.0) * np.cumsum(rng.standard_normal(n)) / np.sqrt(n)
    )
    return walk


def geometric_walk(rng: np.random.Generator, n: int) -> Curve:
    walk: Curve = np.exp(rng.uniform(0.5, 8.0) * np.cumsum(rng.standard_normal(n)) / np.sqrt(n))
    return walk


KINDS: dict[str, Callable[[np.random.Generator, int], Curve]] = {
    "smooth_decay": smooth_decay,
    "power_law": power_law,
    "white_noise": white_noise,
    "random_walk": random_walk,
    "geometric_walk": geometric_walk,
}


def curves(kind: str, n: int, seed: int = 0) -> list[Curve]:
    """COUNT curves of one kind with n points, positive."""
    rng = np.random.default_rng([seed, sorted(KINDS).index(kind)])
    return [KINDS[kind](rng, n) for _ in range(COUNT)]
