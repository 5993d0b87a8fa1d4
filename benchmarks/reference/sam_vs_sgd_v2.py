"""SAM against SGD in the most direct way: eager PyTorch, autograd, one arm at a time.

An independent implementation with the same draws, batches and measurements as
experiments/sam_vs_sgd_v2.py; Hessians are by double backward and SciPy's eigsh. To run it:

    python -m benchmarks.reference.sam_vs_sgd_v2 --seed 1 > reference.json
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from torch.nn.functional import binary_cross_entropy_with_logits

Array = NDArray[np.float64]
Pair = tuple[torch.Tensor, torch.Tensor]

RHOS = [0.01, 0.05, 0.1, 0.2, 0.5, 1.0]
WIDTHS = [256, 128]
RATES = [1.0, 2.0, 0.5]


def rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream])))


def make_data(seed: int, stream: int, spiral: int, noise: float) -> list[Pair]:
    """Training, validation and test sets."""
    r, n = rng(seed, stream), 4200
    label = r.integers(0, 2, n)
    radius: Array
    if spiral:
        along = np.sqrt(r.random(n))
        angle, radius, spread = 1.5 * np.pi * along, 2 * along * (1 - 2 * label), 0.1
    else:
        angle, radius, spread = 2 * np.pi * r.random(n), np.where(label == 1, 1.5, 0.8), 0.2
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    points = points + spread * r.standard_normal((n, 2))
    x = np.concatenate([points, np.ones((n, 1))], axis=1)
    y = label.astype(float)
    wrong = r.random(200) < noise
    y[:200] = np.where(wrong, 1 - y[:200], y[:200])
    cuts = (slice(0, 100), slice(100, 200), slice(200, n))
    return [(torch.from_numpy(x[cut]), torch.from_numpy(y[cut])) for cut in cuts]


def output(weights: Pair, x: torch.Tensor) -> torch.Tensor:
    u, v = weights
    hidden: torch.Tensor = torch.relu(x @ u) * np.sqrt(2 / len(v))
    return hidden @ v


def loss_on(weights: Pair, data: Pair) -> torch.Tensor:
    return binary_cross_entropy_with_logits(output(weights, data[0]), data[1])


def initial(seed: int, width: int) -> Pair:
    r = rng(seed, width)
    u, v = r.standard_normal((3, width)), r.standard_normal((1, width))[0]
    return torch.from_numpy(u).requires_grad_(), torch.from_numpy(v).requires_grad_()


def copy(weights: Pair) -> Pair:
    u, v = (w.detach().clone().requires_grad_() for w in weights)
    return u, v


def sam(weights: Pair, train: Pair, rate: float, rho: float, batches: NDArray[np.int64]) -> Pair:
    optimizer = torch.optim.SGD(weights, lr=rate)
    for batch in batches:
        data = (train[0][batch], train[1][batch])
        gradients = torch.autograd.grad(loss_on(weights, data), weights)
        norm = torch.sqrt(sum(((g**2).sum() for g in gradients), torch.zeros(())))
        with torch.no_grad():
            moves = [rho / norm * g for g in gradients]
            for w, move in zip(weights, moves, strict=True):
                w += move
        optimizer.zero_grad()
        loss_on(weights, data).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for w, move in zip(weights, moves, strict=True):
                w -= move
        optimizer.step()
    return weights


def sgd(
    weights: Pair, train: Pair, held_out: Pair, rate: float, batches: NDArray[np.int64]
) -> tuple[Pair, Pair, Pair]:
    """The weights half way, at the end, and where the held-out loss was lowest."""
    optimizer = torch.optim.SGD(weights, lr=rate)
    halfway, best, least = weights, weights, float("inf")
    for step, batch in enumerate(batches):
        if step == len(batches) // 2:
            halfway = copy(weights)
        if step % 50 == 0:
            with torch.no_grad():
                loss = loss_on(weights, held_out).item()
            if loss < least:
                best, least = copy(weights), loss
        optimizer.zero_grad()
        loss_on(weights, (train[0][batch], train[1][batch])).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return halfway, weights, best


def top_eigenvalue(weights: Pair, train: Pair, start: Array) -> float:
    gradients = torch.autograd.grad(loss_on(weights, train), weights, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradients])

    def hessian_times(vector: Array) -> Array:
        direction = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1)))
        parts = torch.autograd.grad(flat @ direction, weights, retain_graph=True)
        image: Array = torch.cat([p.reshape(-1) for p in parts]).numpy()
        return image

    operator = LinearOperator((len(start), len(start)), matvec=hessian_times, dtype=np.float64)
    values, _ = eigsh(operator, k=1, which="LA", v0=start, tol=1e-4)
    return float(values[0])


@torch.no_grad()
def accuracy(weights: Pair, test: Pair) -> float:
    return float(((output(weights, test[0]) > 0) == (test[1] > 0.5)).double().mean())


def config(
    seed: int,
    stream: int,
    noise: float,
    spiral: int,
    width: int,
    rate: float,
    rhos: list[float],
    steps: int,
) -> dict[str, Any]:
    train, held_out, test = make_data(seed, stream, spiral, noise)
    batches = rng(seed, 3).integers(0, 100, (2 * steps, 25))
    start = rng(seed, 4).standard_normal(4 * width)
    sams = [sam(initial(seed, width), train, rate, rho, batches[:steps]) for rho in rhos]
    halfway, end, best = sgd(initial(seed, width), train, held_out, rate, batches)
    return {
        "noise": noise,
        "spiral": spiral,
        "width": width,
        "rate": rate,
        "sam_lambda": [top_eigenvalue(w, train, start) for w in sams],
        "sgd_lambda": top_eigenvalue(halfway, train, start),
        "sgd_equal_lambda": top_eigenvalue(end, train, start),
        "sam_accuracy": [accuracy(w, test) for w in sams],
        "sgd_accuracy": accuracy(halfway, test),
        "sgd_equal_accuracy": accuracy(end, test),
        "sgd_early_accuracy": accuracy(best, test),
    }


def run(seed: int, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """Every configuration; the numbers are those of the experiment's ``configs``."""
    given = parameters or {}
    rhos, steps = given.get("rhos", RHOS), given.get("steps", 3000)
    kinds = product(given.get("rates", RATES), given.get("widths", WIDTHS), (0, 1), (0.0, 0.2, 0.2))
    configs = [
        config(seed, 10_001 + i, noise, spiral, width, rate, rhos, steps)
        for i, (rate, width, spiral, noise) in enumerate(kinds)
    ]
    return {"configs": configs}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--parameters", type=json.loads, default={})
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.seed, arguments.parameters)))
