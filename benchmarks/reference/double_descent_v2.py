"""Double descent in the most direct way: plain NumPy in float64, one network at a time.

An independent implementation with the same tasks, draws, initial weights and steps as
experiments/double_descent_v2.py, so that each checks the other. To run it:

    python -m benchmarks.reference.double_descent_v2 --seed 1 > reference.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WIDTHS = (2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 32, 64, 128, 384)
SAMPLES, TEST_SAMPLES, INPUTS, CLASSES = 100, 2000, 20, 5
DEFAULTS = {"steps": 3000, "learning_rate": 0.01, "label_noise": 0.2, "separation": 1.0}


def blobs(rng: np.random.Generator, centres: Array, count: int) -> tuple[Array, Any]:
    classes = np.arange(count) % CLASSES
    return centres[classes] + rng.standard_normal((count, INPUTS)), classes


def forward(net: list[Array], x: Array) -> tuple[Array, Array]:
    w1, b1, w2, b2 = net
    h = np.maximum(x @ w1 + b1, 0)
    return h, h @ w2 + b2


def gradients(net: list[Array], x: Array, y: Array) -> list[Array]:
    h, out = forward(net, x)
    d = (out - y) / len(x)
    dh = (d @ net[2].T) * (h > 0)
    return [x.T @ dh, dh.sum(axis=0), h.T @ d, d.sum(axis=0)]


def train(net: list[Array], x: Array, y: Array, steps: int, rate: float) -> None:
    m = [np.zeros_like(p) for p in net]
    v = [np.zeros_like(p) for p in net]
    for t in range(1, steps + 1):
        lr = rate * 0.5 * (1 + np.cos(np.pi * t / steps))
        for i, g in enumerate(gradients(net, x, y)):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            m_hat = m[i] / (1 - 0.9**t)
            v_hat = v[i] / (1 - 0.999**t)
            net[i] = net[i] - lr * m_hat / (np.sqrt(v_hat) + 1e-8)


def measured(net: list[Array], train_set: Any, test_set: Any) -> list[float]:
    """Training error, test error, test loss."""
    out = forward(net, test_set[0])[1]
    return [
        float(np.mean(forward(net, train_set[0])[1].argmax(axis=1) != train_set[1])),
        float(np.mean(out.argmax(axis=1) != test_set[1])),
        float(np.mean((out - np.eye(CLASSES)[test_set[1]]) ** 2)),
    ]


def trial(seed: int, number: int, parameters: Mapping[str, Any]) -> Array:
    """Training error, test error and test loss of each noise and width: (3, 2, widths)."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number])))
    centres = parameters["separation"] * rng.standard_normal((CLASSES, INPUTS))
    x, classes = blobs(rng, centres, SAMPLES)
    test_set = blobs(rng, centres, TEST_SAMPLES)
    luck, shift = rng.random(SAMPLES), rng.integers(1, CLASSES, SAMPLES)
    drawn = [(rng.standard_normal((w, INPUTS)), rng.standard_normal((w, CLASSES))) for w in WIDTHS]
    rows = []
    for noise in (parameters["label_noise"], 0.0):
        labels = np.where(luck < noise, (classes + shift) % CLASSES, classes)
        for width, (first, second) in zip(WIDTHS, drawn, strict=True):
            w1, w2 = first.T * np.sqrt(0.5 / INPUTS), second / np.sqrt(width)
            net = [w1, np.zeros(width), w2, np.zeros(CLASSES)]
            train(net, x, np.eye(CLASSES)[labels], parameters["steps"], parameters["learning_rate"])
            rows.append(measured(net, (x, labels), test_set))
    return np.array(rows).T.reshape(3, 2, len(WIDTHS))


def run(seed: int, parameters: Mapping[str, Any] | None = None, trials: int = 4) -> dict[str, Any]:
    """The curves of the experiment's result, mean of trials."""
    chosen = DEFAULTS | dict(parameters or {})
    mean = np.mean([trial(seed, number, chosen) for number in range(trials)], axis=0)
    names = ("train_error", "test_error", "test_loss")
    curves = [
        {"label_noise": noise, **{name: mean[i, arm].tolist() for i, name in enumerate(names)}}
        for arm, noise in enumerate((chosen["label_noise"], 0.0))
    ]
    return {"curves": curves}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--trials", type=int, default=4)
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.seed, trials=arguments.trials)))
