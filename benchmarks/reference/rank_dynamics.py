"""Rank dynamics in the most direct way: plain NumPy in float64, one network at a time, with SVDs.

An independent implementation with the same task, draws, minibatches and measurements as
experiments/rank_dynamics.py, so that each checks the other. To run it:

    python -m benchmarks.reference.rank_dynamics --seed 1 > reference.json
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

ARCHITECTURES = ([64], [128, 64], [256, 128, 64])
LEARNING_RATES = (0.005, 0.02, 0.1)
SMALL_SD = 0.05
BATCH = 32


def rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream])))


def make_blobs(seed: int) -> tuple[Array, Labels, Array, Labels]:
    r = rng(seed, 0)
    q, _ = np.linalg.qr(r.standard_normal((20, 3)))
    centres = q.T * 5.5 / np.sqrt(2)
    y_train = r.integers(0, 3, 1000)
    x_train = centres[y_train] + r.standard_normal((1000, 20))
    y_test = r.integers(0, 3, 1000)
    x_test = centres[y_test] + r.standard_normal((1000, 20))
    return x_train, y_train, x_test, y_test


def init_weights(seed: int, hidden: list[int], arm: str) -> list[Array]:
    sizes = [20, *hidden, 3]
    weights = []
    for i in range(len(sizes) - 1):
        w = rng(seed, 10 + i).standard_normal((sizes[i], sizes[i + 1]))
        sd = SMALL_SD if arm == "small" else np.sqrt(2 / sizes[i])
        weights.append(w * sd)
    return weights


def forward(weights: list[Array], x: Array) -> tuple[list[Array], Array]:
    hidden = []
    h = x
    for w in weights[:-1]:
        h = np.maximum(h @ w, 0)
        hidden.append(h)
    return hidden, h @ weights[-1]


def softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def sgd_step(weights: list[Array], x: Array, y: Labels, lr: float) -> None:
    hidden, logits = forward(weights, x)
    delta = softmax(logits)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    inputs = [x, *hidden]
    gradients = []
    for i in reversed(range(len(weights))):
        gradients.append(inputs[i].T @ delta)
        if i > 0:
            delta = (delta @ weights[i].T) * (hidden[i - 1] > 0)
    for w, g in zip(weights, reversed(gradients), strict=True):
        w -= lr * g


def stable_rank(matrix: Array) -> float:
    s = np.linalg.svd(matrix, compute_uv=False)
    return float((s**2).sum() / s[0] ** 2)


def snapshot(weights: list[Array], x_test: Array) -> dict[str, list[float]]:
    hidden, _ = forward(weights, x_test)
    return {
        "layers": [stable_rank(w) for w in weights],
        "hidden_layers": [stable_rank(h) for h in hidden],
        "centred_layers": [stable_rank(h - h.mean(axis=0)) for h in hidden],
    }


def train(
    seed: int, hidden: list[int], arm: str, lr: float, epochs: int, every: int
) -> dict[str, Any]:
    x, y, x_test, y_test = make_blobs(seed)
    weights = init_weights(seed, hidden, arm)
    order = rng(seed, 1)
    snapshots = [snapshot(weights, x_test)]
    for epoch in range(1, epochs + 1):
        p = order.permutation(len(x))
        for i in range(0, len(x) - BATCH + 1, BATCH):
            batch = p[i : i + BATCH]
            sgd_step(weights, x[batch], y[batch], lr)
        if epoch % every == 0:
            snapshots.append(snapshot(weights, x_test))
    out: dict[str, Any] = {
        f"{arm}_{kind}": [list(curve) for curve in zip(*(s[kind] for s in snapshots), strict=True)]
        for kind in snapshots[0]
    }
    predicted = softmax(forward(weights, x)[1])
    out[f"{arm}_loss"] = float(-np.log(predicted[np.arange(len(y)), y]).mean())
    out[f"{arm}_accuracy"] = float((forward(weights, x_test)[1].argmax(axis=1) == y_test).mean())
    return out


def run(seed: int, epochs: int = 400, every: int = 5) -> dict[str, Any]:
    """The nine configurations, both arms each; a curve is a list of layers, each of snapshots."""
    configs = []
    for hidden in ARCHITECTURES:
        for lr in LEARNING_RATES:
            config: dict[str, Any] = {"hidden_layers": len(hidden), "learning_rate": lr}
            for arm in ("small", "he"):
                config |= train(seed, hidden, arm, lr, epochs, every)
            configs.append(config)
    return {"configs": configs}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=400)
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.seed, arguments.epochs)))
