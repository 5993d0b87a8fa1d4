"""Imports an environment's libraries and uses them once, so that children share their memory.

The zygote imports and builds before any fork what each child would build on first use. After
training a network, a child then has 10 to 16 MiB of its own instead of 119 MiB.
"""

from __future__ import annotations

import importlib
import io
import json
import sqlite3
import zipfile
from typing import Any

_NUMPY = ("numpy", "numpy.linalg", "numpy.fft", "numpy.random", "numpy.polynomial")


def load(environment: str) -> None:
    """Import what experiments of this environment may use, limited to one thread."""
    for name in _NUMPY:
        importlib.import_module(name)
    if environment == "torch":
        torch: Any = importlib.import_module("torch")
        torch.set_num_threads(1)


def warm(environment: str, *, gpu: bool = False) -> None:
    """Use everything once, without drawing from any generator that a task uses.

    With ``gpu``, torch is imported but not used: its first backward pass starts a thread for each
    GPU, once in the life of a process, and a forked child would not have these threads.
    """
    load(environment)
    _warm_numpy()
    _warm_files()
    if environment == "torch" and not gpu:
        _warm_torch()


def _warm_numpy() -> None:
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([0, 0])))
    matrix = generator.standard_normal((8, 8))
    square = matrix @ matrix.T + np.eye(8)
    for decompose in (np.linalg.svd, np.linalg.eigh, np.linalg.eig, np.linalg.qr, np.linalg.inv):
        decompose(square)
    np.linalg.solve(square, matrix)
    np.linalg.cholesky(square)
    np.linalg.lstsq(square, matrix, rcond=None)
    np.fft.irfft(np.fft.rfft(matrix))
    np.fft.fft2(matrix)
    np.median(matrix), np.percentile(matrix, 50), np.polyfit(np.arange(8.0), matrix[0], 1)
    generator.permutation(8), generator.integers(0, 3, 8), generator.choice(8, 3)


def _warm_files() -> None:
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as archive:
        archive["a"].sum()
    with zipfile.ZipFile(io.BytesIO(), "w") as empty:
        empty.namelist()
    sqlite3.connect(":memory:").close()
    json.loads(json.dumps({"a": [1.0, 2]}))
    exec(compile("def run(task):\n    return {'valid': 1}\n", "warm.py", "exec"), {})


def _warm_torch() -> None:
    torch: Any = importlib.import_module("torch")
    functional: Any = importlib.import_module("torch.nn.functional")
    for build in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop):
        _train_step(torch, functional, build)
    recurrent = torch.nn.LSTM(4, 4, batch_first=True)
    recurrent(torch.zeros(2, 3, 4))[0].sum().backward()
    attention = torch.nn.MultiheadAttention(4, 2, batch_first=True)
    attention(*[torch.zeros(2, 3, 4)] * 3)[0].sum().backward()
    convolution = torch.nn.Conv2d(1, 2, 3, padding=1)
    convolution(torch.zeros(1, 1, 8, 8)).sum().backward()
    curve = torch.func.grad(lambda x: (x**3).sum())
    torch.func.vmap(curve)(torch.ones(2, 3))
    torch.func.jvp(curve, (torch.ones(3),), (torch.ones(3),))
    torch.func.hessian(lambda x: (x**3).sum())(torch.ones(2))
    torch.linalg.eigvalsh(torch.eye(4, dtype=torch.float64))
    torch.linalg.svdvals(torch.eye(4))
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, buffer)
    buffer.seek(0)
    torch.load(buffer, weights_only=True)


def _train_step(torch: Any, functional: Any, build: Any) -> None:
    net = torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.LayerNorm(16), torch.nn.Tanh(),
        torch.nn.Dropout(0.1), torch.nn.Linear(16, 3),
    )  # fmt: skip
    optimizer = build(net.parameters(), lr=0.01)
    x, y = torch.ones(32, 8), torch.zeros(32, dtype=torch.long)
    for _ in range(2):
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
    functional.mse_loss(net(x.double().float()), torch.zeros(32, 3)).backward()
    weights = list(net.parameters())
    gradient = torch.autograd.grad(functional.cross_entropy(net(x), y), weights, create_graph=True)
    torch.autograd.grad(sum((g * g).sum() for g in gradient), weights, allow_unused=True)
    torch.from_numpy(x.numpy().copy())
