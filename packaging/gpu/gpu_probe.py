"""GPU probe: a task that computes, keeps the device busy, exhausts its memory, or hangs.

It is no experiment but a test: `prove.py` gives these workunits to a real agent. The parameter
``mode`` selects what the task does.
"""

# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "torch"]
#
# [tool.axiom]
# name = "gpu_probe"
# version = "1.0.0"
# title = "GPU probe"
# question = "Does a task on this device behave as expected?"
# expected_seconds = 5
#
# [tool.axiom.resources]
# gpus = 1
# gpu_share = 0.5
# memory_bytes = 2_000_000_000
# disk_bytes = 50_000_000
#
# [tool.axiom.parameters]
# mode = { default = "compute", choices = ["compute", "hold", "exhaust", "hang"] }
# hold_seconds = { default = 20.0, min = 0.0, max = 600.0 }
#
# [tool.axiom.result]
# valid = { kind = "flag" }
# configs_done = { kind = "integer", min = 1, max = 1 }
# product_error = { min = 0.0, max = 1.0, atol = 1e-10, about = "float64, device against numpy" }
# gradient_error = { min = 0.0, max = 1.0, atol = 1e-4, about = "float32, device against by hand" }
# ///

from __future__ import annotations

import time

import numpy as np
import torch

SIDE = 256


def product_error(task):
    """Largest relative error of a float64 matrix product."""
    a, b = task.rng(0).standard_normal((2, SIDE, SIDE))
    ours = torch.tensor(a, device=task.device) @ torch.tensor(b, device=task.device)
    return float(np.abs(ours.cpu().numpy() - a @ b).max() / np.abs(a @ b).max())


def gradient_error(task):
    """Largest relative error of the gradient of sum((x w)^2) in float32, by autograd."""
    x = task.rng(1).standard_normal((SIDE, SIDE)).astype(np.float32)
    w = torch.ones(SIDE, device=task.device, requires_grad=True)
    ((torch.tensor(x, device=task.device) @ w) ** 2).sum().backward()
    exact = 2 * x.T.astype(np.float64) @ x.astype(np.float64).sum(axis=1)
    return float(np.abs(w.grad.cpu().numpy() - exact).max() / np.abs(exact).max())


def hold(task):
    """Keep the device busy for ``hold_seconds`` and report progress."""
    work = torch.ones(2048, 2048, device=task.device)
    until = time.monotonic() + task.parameters["hold_seconds"]
    begun = time.monotonic()
    while (now := time.monotonic()) < until:
        for _ in range(20):
            work = work @ work / 2048
        work.sum().item()
        task.progress((now - begun) / task.parameters["hold_seconds"])


def exhaust(task):
    """Allocate memory of the device until there is no more."""
    if task.device == "cpu":
        raise MemoryError("simulated on a CPU")
    kept = []
    while True:
        kept.append(torch.empty(1 << 30, dtype=torch.uint8, device=task.device))


def hang(task):
    """Start a kernel that never ends."""
    if task.device == "cpu":
        while True:
            pass
    torch.cuda._sleep(1 << 50)
    torch.cuda.synchronize()


def run(task):
    mode = task.parameters["mode"]
    if mode != "compute":
        {"hold": hold, "exhaust": exhaust, "hang": hang}[mode](task)
    return {
        "valid": 1,
        "configs_done": 1,
        "product_error": product_error(task),
        "gradient_error": gradient_error(task),
    }
