"""Libraries that must work in the sandbox: the mathematics and file access of real experiments."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from axiom_client.decide.task_run import Environment
from tests.support.running import DEADLINE_SECONDS, Recorder, make_spec, script


class Bench:
    """One pool for all of these, so that torch is imported once."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.recorder: Recorder = self.loop.run_until_complete(self._make())

    async def _make(self) -> Recorder:
        return Recorder()

    def works(self, folder: Path, body: str, environment: Environment = "numpy") -> list[float]:
        """Run ``body``; it must succeed."""
        spec = make_spec(folder, script(body, environment), environment=environment)
        finished = self.loop.run_until_complete(
            asyncio.wait_for(self.recorder.finish(spec), DEADLINE_SECONDS)
        )
        assert finished.outcome == "success", finished.message
        value: list[float] = finished.result["value"]
        return value

    def close(self) -> None:
        self.loop.run_until_complete(self.recorder.pool.close(0))
        self.loop.close()


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


NUMPY = {
    "linalg": """
        import numpy as np
        a = task.rng(0).standard_normal((60, 60)); s = a @ a.T + np.eye(60)
        for f in (np.linalg.svd, np.linalg.eigh, np.linalg.eig, np.linalg.qr, np.linalg.inv,
                  np.linalg.cholesky, np.linalg.det, np.linalg.pinv, np.linalg.matrix_rank):
            f(s)
        np.linalg.lstsq(a, a[0], rcond=None)
        value = [np.abs(np.linalg.solve(s, s) - np.eye(60)).max() < 1e-8]
    """,
    "fft": """
        import numpy as np
        x = task.rng(0).standard_normal(1000)
        value = [np.abs(np.fft.irfft(np.fft.rfft(x)) - x).max() < 1e-9]
        np.fft.fftn(x.reshape(10, 10, 10))
    """,
    "large arrays": "import numpy as np; value = [np.ones((3000, 3000)).sum() == 9e6]",
    "json": "import json; json.dump({'a': [1]}, open('x.json', 'w'));"
    " value = json.load(open('x.json'))['a']",
    "sqlite in the folder": """
        import sqlite3
        with sqlite3.connect("x.sqlite") as c:
            c.execute("pragma journal_mode=wal")
            c.execute("create table t (a)")
            c.executemany("insert into t values (?)", [(i,) for i in range(1000)])
        value = c.execute("select count(*) from t").fetchone()
    """,
    "files": """
        import os, shutil, tempfile, glob, pathlib
        os.makedirs("a/b/c"); pathlib.Path("a/b/c/f").write_text("x")
        shutil.copyfile("a/b/c/f", "a/g"); os.rename("a/g", "a/b/h")
        with tempfile.TemporaryDirectory() as d:
            open(d + "/f", "w").close()
        assert glob.glob("a/**/*", recursive=True)
        shutil.rmtree("a"); value = [len(os.listdir("."))]
    """,
    "memory-mapped arrays": """
        import numpy as np
        m = np.memmap("m", dtype="f8", mode="w+", shape=(1000,)); m[:] = 1; m.flush()
        value = [np.load("z.npy").sum()] if np.save("z.npy", np.ones(3)) else [m.sum()]
    """,
    "standard library": """
        import collections, decimal, fractions, itertools, functools, statistics, re, hashlib, zlib
        import dataclasses, enum, typing, random, time, datetime, csv, pickle, copy, heapq, bisect
        import queue, contextlib, warnings, logging, math, cmath, struct, textwrap, argparse
        logging.getLogger().warning("said")
        value = [statistics.mean([1, 2, 3]), len(hashlib.sha256(b"x").digest()), time.time() > 0]
    """,
    "asyncio": "import asyncio; asyncio.run(asyncio.sleep(0.01)); value = [1]",
}

TORCH_START = """
import torch
import torch.nn.functional as F
rng = task.rng(0)
x = torch.from_numpy(rng.standard_normal((64, 10))).float()
y = torch.from_numpy(rng.integers(0, 3, 64))
def train(net, build, steps=20):
    optimizer = build(net.parameters())
    first = None
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        first = loss.item() if first is None else first
        loss.backward()
        optimizer.step()
    return loss.item() < first
def mlp():
    return torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
"""

TORCH = {
    "SGD": "value = [train(mlp(), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))]",
    "Adam": "value = [train(mlp(), lambda p: torch.optim.Adam(p, lr=0.01))]",
    "AdamW with a schedule": "net = mlp()\n"
    "value = [train(net, lambda p: torch.optim.AdamW(p, lr=0.01))]\n"
    "o = torch.optim.SGD(net.parameters(), lr=1.0)\n"
    "torch.optim.lr_scheduler.CosineAnnealingLR(o, 10).step()",
    "LSTM": "net = torch.nn.LSTM(4, 8, batch_first=True)\n"
    "out, _ = net(torch.ones(3, 5, 4)); out.sum().backward(); value = [out.shape[2]]",
    "attention": "net = torch.nn.TransformerEncoderLayer(16, 4, batch_first=True)\n"
    "out = net(torch.ones(2, 6, 16)); out.sum().backward(); value = [out.shape[1]]",
    "convolution": "net = torch.nn.Conv2d(1, 4, 3); out = net(torch.ones(2, 1, 8, 8))\n"
    "out.sum().backward(); value = [out.shape[1]]",
    "save and load": "net = mlp(); torch.save(net.state_dict(), 'net.pt')\n"
    "net.load_state_dict(torch.load('net.pt', weights_only=True)); value = [1]",
    "torch.func": "from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap\n"
    "f = lambda w: ((x @ w) ** 2).sum(); w = torch.ones(10)\n"
    "assert torch.allclose(hessian(f)(w), jacrev(grad(f))(w), rtol=1e-3)\n"
    "jvp(grad(f), (w,), (w,)); vmap(grad(f))(torch.ones(3, 10))\n"
    "net = mlp(); functional_call(net, dict(net.named_parameters()), (x,)); value = [1]",
    "double backward": "net = mlp(); p = list(net.parameters())\n"
    "g = torch.autograd.grad(F.cross_entropy(net(x), y), p, create_graph=True)\n"
    "h = torch.autograd.grad(sum((v ** 2).sum() for v in g), p); value = [len(h)]",
    "linear algebra": "a = torch.from_numpy(rng.standard_normal((20, 20)))\n"
    "torch.linalg.svd(a); torch.linalg.eigh(a @ a.T); torch.linalg.qr(a); torch.fft.fft(a)\n"
    "value = [torch.linalg.matrix_norm(a, 2)]",
    "float64": "value = [(x.double() @ x.double().T).trace()]",
}


@pytest.mark.parametrize("what", NUMPY)
def test_numpy_and_the_standard_library(bench: Bench, tmp_path: Path, what: str) -> None:
    assert bench.works(tmp_path, NUMPY[what])


@pytest.mark.parametrize("what", TORCH)
def test_torch(bench: Bench, tmp_path: Path, what: str) -> None:
    assert bench.works(tmp_path, TORCH_START + TORCH[what], "torch")[0] != 0
