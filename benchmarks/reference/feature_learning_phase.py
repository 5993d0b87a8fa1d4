"""The lazy and rich phases in the most direct way: plain NumPy with the whole Jacobian.

An independent implementation with the same tasks, draws and steps as
experiments/feature_learning_phase.py, so that each checks the other. The gradient is the residual
times the Jacobian, the tangent kernel the Jacobian times its transpose. To run it:

    python -m benchmarks.reference.feature_learning_phase --seed 1 > reference.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WIDTHS = (32, 64, 128, 256, 512, 1024)
ALPHAS = tuple(2.0**power for power in range(-10, 7, 2))
INPUTS, TEST_SAMPLES, STEPS_MAX = 6, 1000, 4000
DEFAULTS = {"samples": 128, "target_loss": 0.05}


def product_task(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    inputs = rng.standard_normal((count, INPUTS))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    return inputs, INPUTS * inputs[:, 0] * inputs[:, 1]


def function(weights: Array, inputs: Array) -> Array:
    """f(x) = a . relu(W x) / sqrt(h); the flat weights are W, then a."""
    width = len(weights) // (INPUTS + 1)
    hidden, output = weights[: width * INPUTS].reshape(width, INPUTS), weights[width * INPUTS :]
    out: Array = np.maximum(inputs @ hidden.T, 0) @ output / np.sqrt(width)
    return out


def jacobian(weights: Array, inputs: Array) -> Array:
    """d f(x) / d weights, (samples, weights)."""
    width = len(weights) // (INPUTS + 1)
    hidden, output = weights[: width * INPUTS].reshape(width, INPUTS), weights[width * INPUTS :]
    total = inputs @ hidden.T
    by_hidden = np.einsum("nh,nd->nhd", (total > 0) * output, inputs).reshape(len(inputs), -1)
    both: Array = np.concatenate([by_hidden, np.maximum(total, 0)], axis=1) / np.sqrt(width)
    return both


def kernel(weights: Array, inputs: Array) -> Array:
    rows = jacobian(weights, inputs)
    out: Array = rows @ rows.T
    return out


def alignment(kernel_matrix: Array, targets: Array) -> float:
    n = len(targets)
    centring = np.eye(n) - 1.0 / n
    centred = centring @ kernel_matrix @ centring
    target = centring @ np.outer(targets, targets) @ centring
    return float(np.sum(centred * target) / np.linalg.norm(centred) / np.linalg.norm(target))


def train(first: Array, data: tuple[Array, Array], alpha: float, target_loss: float) -> Array:
    """Adaptive Euler steps of gradient flow on mean((F - y)^2) / 2: the final weights."""
    inputs, targets = data
    weights, start, curvature = first.copy(), function(first, inputs), 0.0
    for step in range(STEPS_MAX):
        residual = alpha * (function(weights, inputs) - start) - targets
        if np.mean(residual**2) / np.mean(targets**2) < target_loss:
            break
        if step % 10 == 0:
            curvature = float(np.linalg.eigvalsh(kernel(weights, inputs))[-1]) / len(targets)
        gradient = alpha / len(targets) * residual @ jacobian(weights, inputs)
        longest = float(0.02 * np.linalg.norm(weights) / np.linalg.norm(gradient))
        weights -= min(0.5 / (alpha**2 * curvature), longest) * gradient
    return weights


def cell(data: Any, test: Any, first: Array, alpha: float, target_loss: float) -> list[float]:
    """Movement, kernel change, alignment and test loss of one net."""
    last = train(first, data, alpha, target_loss)
    before, after = kernel(first, data[0]), kernel(last, data[0])
    outputs = alpha * (function(last, test[0]) - function(first, test[0]))
    return [
        float(np.linalg.norm(last - first) / np.linalg.norm(first)),
        float(np.linalg.norm(after - before) / np.linalg.norm(before)),
        alignment(after, data[1]),
        float(np.mean((outputs - test[1]) ** 2) / np.mean(test[1] ** 2)),
    ]


def trial(seed: int, number: int, parameters: Mapping[str, Any]) -> Array:
    """(widths, alphas, 4)."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number])))
    data, test = product_task(rng, parameters["samples"]), product_task(rng, TEST_SAMPLES)
    drawn = [rng.standard_normal(width * (INPUTS + 1)) for width in WIDTHS]  # W, then a
    target = parameters["target_loss"]
    return np.array([[cell(data, test, first, a, target) for a in ALPHAS] for first in drawn])


def run(seed: int, parameters: Mapping[str, Any] | None = None, trials: int = 8) -> dict[str, Any]:
    """The cells of the experiment's result: geometric means of ratios over trials, else means."""
    chosen = DEFAULTS | dict(parameters or {})
    tables = np.array([trial(seed, number, chosen) for number in range(trials)])
    ratios, plain = np.exp(np.log(tables[..., :2]).mean(axis=0)), tables[..., 2:].mean(axis=0)
    cells = [
        {
            "width": width,
            "alpha": alpha,
            "movement": float(ratios[i, j, 0]),
            "kernel_change": float(ratios[i, j, 1]),
            "alignment": float(plain[i, j, 0]),
            "test_loss": float(plain[i, j, 1]),
        }
        for i, width in enumerate(WIDTHS)
        for j, alpha in enumerate(ALPHAS)
    ]
    return {"cells": cells}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--trials", type=int, default=8)
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.seed, trials=arguments.trials)))
