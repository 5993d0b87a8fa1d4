"""The catapult phase in the most direct way: eager PyTorch, autograd, one net at a time.

An independent implementation with the same draws, steps and measurements of the kernel as
experiments/catapult_phase.py. To run it:

    python -m benchmarks.reference.catapult_phase --seed 1 > reference.json
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch

WIDTHS = [512, 128, 2048, 256, 1024, 4096]
RATES = [3.0, 1.0, 2.5, 1.9, 3.5, 6.0, 0.5, 1.5, 2.1, 2.25, 2.75, 4.0, 4.5, 5.0, 8.0]
DIVERGED = 1e5


def rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream])))


def make_data(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    r = rng(seed, 0)
    direction = r.standard_normal(10)
    direction /= np.linalg.norm(direction)
    x = r.standard_normal((64 + 512, 10))
    return torch.from_numpy(x / np.sqrt(10)), torch.from_numpy(x @ direction)


def output(u: torch.Tensor, v: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    hidden: torch.Tensor = torch.relu(x @ u) * np.sqrt(2 / len(v))
    return hidden @ v


def half_mean_square(error: torch.Tensor) -> torch.Tensor:
    half: torch.Tensor = 0.5 * (error**2).mean()
    return half


@torch.no_grad()
def top_eigenvalue(u: torch.Tensor, v: torch.Tensor, x: torch.Tensor) -> float:
    """The top eigenvalue of the neural tangent kernel over n, in closed form."""
    h = x @ u
    a = torch.relu(h)
    s = (h > 0).double() * v
    kernel = (2 / len(v)) * ((x @ x.T) * (s @ s.T) + a @ a.T)
    return float(torch.linalg.eigvalsh(kernel / len(x))[-1])


def train(seed: int, width: int, rate: float, steps: int) -> dict[str, Any]:
    x, y = make_data(seed)
    train_x, train_y, test_x, test_y = x[:64], y[:64], x[64:], y[64:]
    r = rng(seed, width)
    u = torch.from_numpy(r.standard_normal((10, width))).requires_grad_()
    v = torch.from_numpy(r.standard_normal(width)).requires_grad_()
    losses: list[float] = []
    first = last = top_eigenvalue(u, v, train_x)
    optimizer = torch.optim.SGD([u, v], lr=rate / first)
    diverged = False
    for step in range(steps + 1):
        loss = half_mean_square(output(u, v, train_x) - train_y)
        losses.append(loss.item())
        diverged = not losses[-1] < DIVERGED * losses[0]
        if step <= 60 or step % 20 == 0 or step == steps or diverged:
            last = top_eigenvalue(u, v, train_x)
        if diverged or step == steps:
            break
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        test_loss = half_mean_square(output(u, v, test_x) - test_y).item()
    return {
        "width": width,
        "rate": rate,
        "learning_rate": rate / first,
        "peak_ratio": DIVERGED if diverged else max(losses) / losses[0],
        "peak_step": int(np.argmax(losses)),
        "final_loss": losses[-1],
        "lambda_ratio": last / first,
        "edge": rate * last / first,
        "test_loss": test_loss,
        "diverged": int(diverged),
    }


def run(seed: int, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """Every pair of width and rate; the numbers are those of the experiment's ``configs``."""
    given = parameters or {}
    widths, rates = given.get("widths", WIDTHS), given.get("rates", RATES)
    pairs = sorted((width, rate) for width in widths for rate in rates)
    return {"configs": [train(seed, w, rate, given.get("steps", 600)) for w, rate in pairs]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--parameters", type=json.loads, default={})
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.seed, arguments.parameters)))
