"""How much one serving process takes: `python -m benchmarks.server_throughput [--seconds 10]`.

One `axiom-server serve` on embedded PostgreSQL, durable as in use, and a load generator on the same
cores whose hosts are real HTTP clients that enrolled, send their tokens and are trusted. Prints
JSON:

sync_per_second        exchanges of one report and one grant each
workunits_per_second   granted, reported and acknowledged, in batches of 100
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks import load

EXPERIMENT = load.ROOT / "tests" / "fixtures" / "experiments" / "short_walk.py"
QUEUED = 400_000  # more than any run takes
CLIENTS = 24  # connections at once: the server is never idle
BATCH = 100


class GrantIds(msgspec.Struct):
    """What the generator reads of a grant."""

    task_id: int
    seed: int


class Answer(msgspec.Struct):
    """What the generator reads of an answer."""

    grants: list[GrantIds]
    acknowledged: list[dict[str, object]]


_decode = msgspec.json.Decoder(Answer).decode


@dataclass
class Host:
    """One host: it reports what it was granted, and asks for as much again."""

    connection: load.Connection
    token: str
    slots: int
    held: list[GrantIds]
    number: Iterator[int]

    async def exchange(self) -> int:
        """One sync; returns how many reports were acknowledged."""
        reports = [
            {
                "task_id": grant.task_id, "outcome": "success", "elapsed_seconds": 0.01,
                "cpu_seconds": 0.01,
                "result": {"valid": 1, "configs_done": 3, "exponent": 0.5 + grant.seed * 1e-9},
            }
            for grant in self.held
        ]  # fmt: skip
        body = msgspec.json.encode(
            {
                "request_id": f"request-{next(self.number):012d}",
                "capacity": {
                    "cpu_slots_free": self.slots, "cpu_slots": self.slots,
                    "memory_free_bytes": 1 << 40, "disk_free_bytes": 1 << 40,
                },
                "reports": reports,
            }
        )  # fmt: skip
        status, raw = await self.connection.post("/api/v1/sync", body, self.token)
        if status != 200:
            raise RuntimeError(f"sync: {status} {raw[:300]!r}")
        answer = _decode(raw)
        if len(answer.acknowledged) != len(reports) or len(answer.grants) != self.slots:
            raise RuntimeError(f"{len(answer.acknowledged)} of {len(reports)} acknowledged, "
                               f"{len(answer.grants)} of {self.slots} granted")  # fmt: skip
        self.held = answer.grants
        return len(reports)


async def measure(folder: Path, port: int, slots: int, seconds: float) -> tuple[float, float]:
    """(exchanges, acknowledged reports) a second, over ``seconds`` after everybody has begun."""
    numbers = itertools.count()
    hosts = []
    for _ in range(CLIENTS):
        connection = load.Connection(port)
        token = await load.enrol(connection, slots)
        hosts.append(Host(connection, token, slots, [], numbers))
    load.trust_all(folder)
    await asyncio.gather(*(host.exchange() for host in hosts))
    done = [0, 0]
    until = time.monotonic() + seconds

    async def work(host: Host) -> None:
        while time.monotonic() < until:
            acknowledged = await host.exchange()
            done[0] += 1
            done[1] += acknowledged

    began = time.monotonic()
    await asyncio.gather(*(work(host) for host in hosts))
    took = time.monotonic() - began
    for host in hosts:
        host.connection.close()
    return done[0] / took, done[1] / took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds
    with load.project() as folder:
        load.staff(folder, "publish", "--skip", "dry-run", str(EXPERIMENT))
        load.staff(folder, "deploy", "short_walk", "--count", str(QUEUED), "--budget", "0.01")
        with load.serving(folder) as port:
            singles, _ = asyncio.run(measure(folder, port, 1, seconds))
            _, workunits = asyncio.run(measure(folder, port, BATCH, seconds))
    print(json.dumps({"sync_per_second": round(singles), "workunits_per_second": round(workunits)}))


if __name__ == "__main__":
    main()
