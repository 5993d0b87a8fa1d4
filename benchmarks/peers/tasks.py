"""The tasks that every system runs, as functions of (index) -> number.

    python -m benchmarks.peers.tasks WORK INDEX SPANS

runs one and appends its span to the file SPANS: when its first and its last line ran, in seconds of
the monotonic clock, and its process id. The systems that start programs use this command; the
others call `record`. Our agent runs the same functions as an experiment (see `experiment_source`).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import NamedTuple


class Span(NamedTuple):
    """When a task's first and last line ran (monotonic seconds), and in which process."""

    began: float
    ended: float
    pid: int


def noop(index: int) -> float:
    """Nothing."""
    return float(index)


def five_seconds(index: int) -> float:
    """Five seconds that use no processor."""
    time.sleep(5.0)
    return float(index)


def torch_training(index: int) -> float:
    """Train a small network with Adam for 100 steps; the last loss."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(index)
    x, y = torch.randn(256, 20), torch.randint(0, 3, (256,))
    net = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
    return float(loss.item())


def torch_held(index: int) -> float:
    """The same training, after which the process stays so that its memory can be measured."""
    loss = torch_training(index)
    time.sleep(6.0)
    return loss


def evening(index: int) -> float:
    """One of an evening's 2,001 workunits in small.

    The times are those of the log's 1,065 credited results, by tier, over 100,000: 0.5 ms (473
    results), 5 ms (473), 50 ms (80) and 150 ms (39).
    """
    place = index * 397 % 1065  # spreads the long ones
    time.sleep(0.0005 if place < 473 else 0.005 if place < 946 else 0.05 if place < 1026 else 0.15)
    return float(index)


WORKS = {
    f.__name__: f for f in (noop, five_seconds, torch_training, torch_held, evening)
}  # fmt: skip
EVENING_TASKS = 2_001
EXPECTED_SECONDS = {"five_seconds": 5, "torch_held": 7}


def record(work: str, index: int, spans: str) -> float:
    """Run one task, and append its span to the file ``spans``."""
    began = time.monotonic()
    value = WORKS[work](index)
    line = f"{began!r} {time.monotonic()!r} {os.getpid()}\n".encode()
    descriptor = os.open(spans, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line)  # one write: lines of several processes do not mix
    finally:
        os.close(descriptor)
    return value


def read_spans(path: Path) -> list[Span]:
    """The spans in a file, in order of their beginning."""
    lines = path.read_text().splitlines() if path.exists() else []
    return sorted(Span(float(b), float(e), int(p)) for b, e, p in map(str.split, lines))


EXPERIMENT = '''"""A task of the comparison with other systems. For a benchmark only."""
# /// script
# requires-python = ">=3.11"
# dependencies = [{dependencies}]
#
# [tool.axiom]
# name = "{work}"
# version = "1.0.0"
# title = "Comparison of systems"
# question = "When does a task begin and end on the host's monotonic clock?"
# resources = {{ cpu_cores = 1, memory_bytes = 600_000_000, disk_bytes = 1_000_000 }}
# expected_seconds = {expected_seconds}
# [tool.axiom.result]
# valid = {{ kind = "flag" }}
# configs_done = {{ kind = "integer" }}
# began = {{ unit = "s" }}
# ended = {{ unit = "s" }}
# pid = {{ kind = "integer" }}
# value = {{}}
# ///
import os
import time


{functions}


def run(task):
    began = time.monotonic()
    value = {work}(task.seed % 1_000_000)
    return {{"valid": 1, "configs_done": 1, "began": began, "ended": time.monotonic(),
            "pid": os.getpid(), "value": value}}
'''


def experiment_source(work: str) -> str:
    """The same task as an experiment."""
    import inspect

    needs_torch = work.startswith("torch")
    parts = [torch_training, WORKS[work]] if work == "torch_held" else [WORKS[work]]
    return EXPERIMENT.format(
        work=work,
        expected_seconds=EXPECTED_SECONDS.get(work, 1),
        dependencies='"numpy", "torch"' if needs_torch else '"numpy"',
        functions="\n\n".join(inspect.getsource(part) for part in parts).rstrip(),
    )


if __name__ == "__main__":
    record(sys.argv[1], int(sys.argv[2]), sys.argv[3])
