"""A short benchmark, run once: float32 matrix products on one core, in GFLOP/s.

It runs in a child process, which runs this module, because the agent itself never imports numpy.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from axiom_client.system.child_environment import child_environment

SIZE = 384  # fits the second-level cache of any processor that volunteers have
MEASURE_SECONDS = 0.2
CHILD_SECONDS_MAX = 30.0  # importing numpy from a cold disk
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Speed(Struct, frozen=True, kw_only=True):
    """The measured speed and the processor that it was measured on."""

    processor: str
    gflops: float


async def measure_speed(processor: str) -> Speed:
    """Measure in a child; 0 if that fails: numpy is missing, or the host is overloaded."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "axiom_client.host.speed",
        env=child_environment(**ONE_THREAD),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        out, _ = await asyncio.wait_for(child.communicate(), CHILD_SECONDS_MAX)
        return Speed(processor=processor, gflops=msgspec.json.decode(out, type=float))
    except (TimeoutError, msgspec.DecodeError):
        return Speed(processor=processor, gflops=0.0)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def keep_speed(path: Path, speed: Speed) -> None:
    """Save the speed for later starts."""
    path.write_bytes(msgspec.json.encode(speed))


def known_speed(path: Path, processor: str) -> float:
    """The saved speed of this processor; 0 if there is none."""
    try:
        speed = msgspec.json.decode(path.read_bytes(), type=Speed)
    except (OSError, msgspec.DecodeError):
        return 0.0
    return speed.gflops if speed.processor == processor else 0.0


def _child() -> None:
    import numpy as np

    a = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)
    np.matmul(a, a)  # the first product initializes the library
    best, until = 0.0, time.perf_counter() + MEASURE_SECONDS
    while (start := time.perf_counter()) < until:
        np.matmul(a, a)
        best = max(best, 2 * SIZE**3 / (time.perf_counter() - start) / 1e9)
    sys.stdout.write(f"{best:.2f}")


if __name__ == "__main__":
    _child()
