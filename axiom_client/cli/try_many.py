"""``axiom-client try-many``: the dry runs of ``axiom-server publish``, several at a time.

The libraries are loaded once for all runs, which takes longer than most runs themselves.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import msgspec

from axiom_client.cli.try_experiment import facts, named_gpu
from axiom_client.errors import TrialFailed
from axiom_client.host.gpu import vendors
from axiom_client.run.tryout import Run, Runner, TryProblem, TryResult
from axiom_protocol.messages import GpuFacts
from axiom_protocol.try_requests import TryAnswer, TryRequest

APART_SECONDS = 1.1  # so that clocks show another second
RUNS_AT_A_TIME = os.cpu_count() or 1


def try_many() -> None:
    """Read the requests, run them, print the records. Raises TrialFailed at the first problem."""
    try:
        requests = msgspec.json.decode(sys.stdin.buffer.read(), type=list[TryRequest])
    except msgspec.DecodeError as error:
        raise TrialFailed(f"standard input is not a list of runs: {error}") from None
    gpus = cache(named_gpu)
    runs = [_run(request, gpus(request.device)) for request in requests]
    try:
        asyncio.run(_Batch(requests, runs).run())
    except (TryProblem, OSError) as error:
        raise TrialFailed(f"{error}") from None


def _run(request: TryRequest, gpus: list[GpuFacts]) -> Run:
    return Run(
        path=Path(request.path),
        seed=request.seed,
        budget_seconds=request.budget_seconds,
        device=vendors.torch_device(gpus),
        driver=vendors.access(gpus),
        other_seeds=request.other_seeds,
    )


class _Batch:
    """The runs of one call, with the processes that they share."""

    def __init__(self, requests: Sequence[TryRequest], runs: Sequence[Run]) -> None:
        self._requests, self._runs = requests, runs
        self._started = [asyncio.Event() for _ in requests]
        self._slots = asyncio.Semaphore(RUNS_AT_A_TIME)

    async def run(self) -> None:
        """Make every run, and print its record when it ends."""
        fresh, shared = Runner("cold"), Runner("warm")
        tasks = [
            asyncio.create_task(self._one(number, fresh if request.fresh else shared))
            for number, request in enumerate(self._requests)
        ]
        try:
            for task in asyncio.as_completed(tasks):
                number, tried = await task
                record = msgspec.Raw(msgspec.json.encode(facts(tried)))
                answer = msgspec.json.encode(TryAnswer(number=number, run=record))
                print(answer.decode(), flush=True)
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await fresh.close()
            await shared.close()

    async def _one(self, number: int, runner: Runner) -> tuple[int, TryResult]:
        after = self._requests[number].after
        if after is not None:
            await self._started[after].wait()
            await asyncio.sleep(APART_SECONDS)
        async with self._slots:
            self._started[number].set()
            return number, await runner.run(self._runs[number])
