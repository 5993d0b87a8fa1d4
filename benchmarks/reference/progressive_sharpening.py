"""Progressive sharpening in the most direct way: eager PyTorch, double backward, SciPy's eigsh.

An independent implementation with the same draws, steps and measurements as
experiments/progressive_sharpening.py; as there, weights are rounded to float32 after every step.
To run it:

    python -m benchmarks.reference.progressive_sharpening --seed 1 > reference.json
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

Array = NDArray[np.float64]

WIDTHS = [64, 32]
RATES = [0.02, 0.2, 0.15, 0.1, 0.3]
STEPS_MAX = 12000


def rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream])))


def make_data(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    r = rng(seed, 0)
    directions = r.standard_normal((10, 3))
    directions /= np.linalg.norm(directions, axis=0)
    x = r.standard_normal((1100, 10))[:100]
    z = x @ directions
    return torch.from_numpy(x), torch.from_numpy(1.4 * (z[:, 0] + z[:, 1] * z[:, 2]))


def make_net(seed: int, width: int) -> tuple[torch.nn.Sequential, Array]:
    r = rng(seed, width)
    layers = [torch.nn.Linear(10, width), torch.nn.Linear(width, width), torch.nn.Linear(width, 1)]
    net = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.Tanh(), layers[2])
    net.double()
    with torch.no_grad():
        for layer in layers:
            shape = (layer.in_features, layer.out_features)
            weight = r.standard_normal(shape if shape[1] > 1 else shape[0]).reshape(shape)
            layer.weight.copy_(torch.from_numpy(weight.T * 0.7 / np.sqrt(shape[0])))
            layer.bias.zero_()
    size = sum(p.numel() for p in net.parameters())
    return net, r.standard_normal(size)


def round_weights(net: torch.nn.Module) -> None:
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(weight.float().double())


def sharpness(net: torch.nn.Module, loss: torch.Tensor, start: Array) -> tuple[float, Array]:
    weights = list(net.parameters())
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradients])

    def product(vector: Array) -> Array:
        direction = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1)))
        parts = torch.autograd.grad(flat @ direction, weights, retain_graph=True)
        image: Array = torch.cat([p.reshape(-1) for p in parts]).numpy()
        return image

    operator = LinearOperator((len(start), len(start)), matvec=product, dtype=np.float64)
    values, vectors = eigsh(operator, k=1, which="LA", v0=start, tol=1e-4)
    return float(values[0]), vectors[:, 0]


def train(seed: int, width: int, rate: float, steps_max: int) -> dict[str, Any]:
    x, y = make_data(seed)
    net, vector = make_net(seed, width)
    round_weights(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    at, sharp = [], []
    first, diverged = 0.0, False
    for step in range(steps_max + 1):
        loss = 0.5 * ((net(x)[:, 0] - y) ** 2).mean()
        first = first or loss.item()
        diverged = not loss.item() < 1e3 * first
        if diverged or loss.item() < 1e-6 * first:
            break
        if step % (5 if step <= 100 else 15) == 0:
            value, vector = sharpness(net, loss, vector)
            at.append(step)
            sharp.append(value)
            loss = 0.5 * ((net(x)[:, 0] - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        round_weights(net)
    ratios = np.array(sharp) * rate / 2
    arrived = np.flatnonzero(ratios >= 0.95)
    late = float(np.median(sharp[len(sharp) // 2 :]))
    return {
        "width": width,
        "rate": rate,
        "arrival_step": at[arrived[0]] if len(arrived) else -1,
        "late_sharpness": late,
        "late_edge": late * rate / 2,
        "diverged": int(diverged),
    }


def run(seed: int, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """Every pair of width and rate; the numbers are those of the experiment's ``configs``."""
    given = parameters or {}
    widths, rates = given.get("widths", WIDTHS), given.get("rates", RATES)
    steps_max = given.get("steps_max", STEPS_MAX)
    pairs = sorted((width, rate) for width in widths for rate in rates)
    return {"configs": [train(seed, width, rate, steps_max) for width, rate in pairs]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--parameters", type=json.loads, default={})
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.seed, arguments.parameters)))
