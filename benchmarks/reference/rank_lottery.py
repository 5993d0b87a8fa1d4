"""Lottery tickets in the most direct way: plain NumPy in float64, one network at a time.

An independent implementation with the same tasks, draws, batches and masks as
experiments/rank_lottery.py, so that each checks the other. To run it:

    python -m benchmarks.reference.rank_lottery --seed 1 > reference.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Layers = list[Array]

SIZES = (20, 128, 64, 5)
LAYERS = range(3)
ARMS = ("ticket", "reinit", "random", "signs", "unsigned")
CLASSES, CLUSTERS, SAMPLES, TEST_SAMPLES, BATCH, ROUNDS = 5, 4, 1000, 2000, 64, 6
TRIALS = 6  # of a run with the declared seconds
DEFAULTS = {"steps": 600, "learning_rate": 0.003, "separation": 1.0}


def clusters(rng: np.random.Generator, centres: Array, count: int) -> tuple[Array, Any]:
    which = rng.integers(0, len(centres), count)
    return centres[which] + rng.standard_normal((count, SIZES[0])), which % CLASSES


def initial(rng: np.random.Generator) -> Layers:
    return [rng.standard_normal((SIZES[i], SIZES[i + 1])) * np.sqrt(2.0 / SIZES[i]) for i in LAYERS]


def forward(weights: Layers, biases: Layers, x: Array) -> Layers:
    out = [x]
    for i in LAYERS:
        z = out[-1] @ weights[i] + biases[i]
        out.append(np.maximum(z, 0) if i < 2 else z)
    return out


def gradients(weights: Layers, biases: Layers, x: Array, y: Array) -> tuple[Layers, Layers]:
    out = forward(weights, biases, x)
    e = np.exp(out[3] - out[3].max(axis=1, keepdims=True))
    d = (e / e.sum(axis=1, keepdims=True) - y) / len(x)
    by_weight: Layers = []
    by_bias: Layers = []
    for i in reversed(LAYERS):
        by_weight.insert(0, out[i].T @ d)
        by_bias.insert(0, d.sum(axis=0))
        if i:
            d = (d @ weights[i].T) * (out[i] > 0)
    return by_weight, by_bias


def train(
    start: Layers, masks: Layers, data: Any, batches: Any, rate: float
) -> tuple[Layers, Layers]:
    """Train with Adam the weights that the masks leave; returns weights and biases."""
    x, classes = data
    y = np.eye(CLASSES)[classes]
    net = [w * m for w, m in zip(start, masks, strict=True)] + [np.zeros(n) for n in SIZES[1:]]
    m = [np.zeros_like(p) for p in net]
    v = [np.zeros_like(p) for p in net]
    for t, batch in enumerate(batches, start=1):
        by_weight, by_bias = gradients(net[:3], net[3:], x[batch], y[batch])
        masked = [g * k for g, k in zip(by_weight, masks, strict=True)]
        for i, g in enumerate(masked + by_bias):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            step = m[i] / (1 - 0.9**t) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
            net[i] = net[i] - rate * step
    return net[:3], net[3:]


def magnitude_masks(weights: Layers, masks: Layers) -> Layers:
    """Masks of the largest half of the remaining weights, three quarters in the output layer."""
    pruned = []
    for i in LAYERS:
        keep = round((0.75 if i == 2 else 0.5) * float(masks[i].sum()))
        size = np.abs(weights[i]) * masks[i]
        pruned.append((size >= np.sort(size, axis=None)[-keep]).astype(float))
    return pruned


def shuffled(rng: np.random.Generator, masks: Layers) -> Layers:
    return [rng.permutation(mask.ravel()).reshape(mask.shape) for mask in masks]


def with_permuted_magnitudes(rng: np.random.Generator, weights: Layers, masks: Layers) -> Layers:
    """The signs of the weights, and in each layer the magnitudes of those left permuted."""
    mixed = [w.copy() for w in weights]
    for w, mask in zip(mixed, masks, strict=True):
        left = mask > 0
        w[left] = np.sign(w[left]) * rng.permutation(np.abs(w[left]))
    return mixed


def with_new_signs(rng: np.random.Generator, weights: Layers) -> Layers:
    """The magnitudes of the weights with random signs; signs are drawn for the biases (0) too."""
    ends = np.cumsum([w.size for w in weights])
    signs = rng.choice([-1.0, 1.0], ends[-1] + sum(SIZES[1:]))
    drawn = np.split(signs, ends)[: len(weights)]
    return [w * sign.reshape(w.shape) for w, sign in zip(weights, drawn, strict=True)]


def accuracy(net: tuple[Layers, Layers], data: Any) -> float:
    return float(np.mean(forward(*net, data[0])[3].argmax(axis=1) == data[1]))


def kept_energy(weights: Layers, masks: Layers) -> list[float]:
    """Shares of the top five directions and of the bulk, mean of the two hidden layers."""
    shares = []
    for i in (0, 1):
        left, values, right = np.linalg.svd(weights[i], full_matrices=False)
        stays = values * np.diagonal(left.T @ (masks[i] * weights[i]) @ right.T)
        sets = slice(0, 5), slice(5, None)
        shares.append([float(stays[s].sum() / (values[s] ** 2).sum()) for s in sets])
    return list(np.mean(shares, axis=0))


def trial(seed: int, number: int, parameters: Mapping[str, Any]) -> Array:
    """Per round: accuracies of five arms; top and bulk kept by magnitude and at random."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number])))
    centres = parameters["separation"] * rng.standard_normal((CLASSES * CLUSTERS, SIZES[0]))
    data, test = clusters(rng, centres, SAMPLES), clusters(rng, centres, TEST_SAMPLES)
    batches = rng.integers(0, SAMPLES, (parameters["steps"], BATCH))
    rate = parameters["learning_rate"]
    first = initial(rng)
    masks = [np.ones_like(w) for w in first]
    dense = ticket = train(first, masks, data, batches, rate)
    probe, rounds = masks, []
    for _ in range(ROUNDS):
        masks = magnitude_masks(ticket[0], masks)
        scattered = shuffled(rng, masks)
        ticket = train(first, masks, data, batches, rate)
        arms = [
            ticket,
            train(initial(rng), masks, data, batches, rate),
            train(first, scattered, data, batches, rate),
            train(with_permuted_magnitudes(rng, first, masks), masks, data, batches, rate),
            train(with_new_signs(rng, first), masks, data, batches, rate),
        ]
        probe = magnitude_masks(dense[0], probe)
        accuracies = [accuracy(net, test) for net in arms]
        kept = [*kept_energy(dense[0], probe), *kept_energy(dense[0], scattered)]
        rounds.append([*accuracies, *kept])
    return np.array(rounds)


def run(
    seed: int, parameters: Mapping[str, Any] | None = None, trials: int = TRIALS
) -> dict[str, Any]:
    """The curves over sparsity of the experiment's result, mean of trials."""
    chosen = DEFAULTS | dict(parameters or {})
    table = np.mean([trial(seed, number, chosen) for number in range(trials)], axis=0).T
    names = (*(f"{arm}_curve" for arm in ARMS), "top_curve", "bulk_curve")
    curves = {name: row.tolist() for name, row in zip(names, table, strict=False)}
    return {**curves, "random_kept_curve": table[7:9].mean(axis=0).tolist()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--trials", type=int, default=TRIALS)
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.seed, trials=arguments.trials)))
