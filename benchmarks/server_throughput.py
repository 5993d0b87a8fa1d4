"""Measures the throughput of one serving process.

    python -m benchmarks.server_throughput [--rounds 7]

The load generator runs on the same cores as one `axiom-server serve` on embedded PostgreSQL, with
durable commits as in production. Its hosts are real HTTP clients that have enrolled, send their
tokens and are trusted. In the same rounds and on the same PostgreSQL it measures a minimal
scheduler (reference/bare_server.py) without authentication, policy, result gate and replication.

sync_per_second        syncs of one report and one grant each
workunits_per_second   granted, reported and acknowledged, in batches of 100
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import msgspec

from benchmarks import load
from benchmarks.common import median, report

EXPERIMENT = load.ROOT / "tests" / "fixtures" / "experiments" / "short_walk.py"
QUEUED = 1_000_000  # more than the rounds use up
QUEUED_BARE = 3_000_000
CLIENTS = 24  # connections at once: the server is never idle
HOSTS = 240  # take turns on the connections: the server limits how often one host may sync
BATCH = 100
ROUNDS = 7
ROUND_SECONDS = 3.0
BOINC = {"sync_per_second": 39, "workunits_per_second": 227}  # the project's own measurement


class GrantIds(msgspec.Struct):
    """The part of a grant that the generator uses."""

    task_id: int
    seed: int


class Answer(msgspec.Struct):
    """The part of an answer that the generator uses."""

    grants: list[GrantIds]
    acknowledged: list[dict[str, object]]


_decode = msgspec.json.Decoder(Answer).decode


@dataclass
class Host:
    """One host: it reports all tasks that it was granted, and asks for as many again."""

    connection: load.Connection
    slots: int
    number: Iterator[int]
    token: str = ""
    held: list[GrantIds] = field(default_factory=list)

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


@dataclass
class Fleet:
    """Hosts of one size that share a few connections, with one sync at a time on each."""

    queues: list[list[Host]]
    figures: list[tuple[float, float]] = field(default_factory=list)

    async def work(self, seconds: float) -> None:
        """Sync for ``seconds``; appends (syncs, acknowledged reports) a second to ``figures``."""
        done = [0, 0]
        began = time.monotonic()

        async def take_turns(hosts: list[Host]) -> None:
            for host in itertools.cycle(hosts):
                if time.monotonic() - began >= seconds:
                    return
                acknowledged = await host.exchange()
                done[0] += 1
                done[1] += acknowledged

        await asyncio.gather(*(take_turns(hosts) for hosts in self.queues))
        took = time.monotonic() - began
        self.figures.append((done[0] / took, done[1] / took))


async def fleet(port: int, slots: int, numbers: Iterator[int], *, enrolled: bool) -> Fleet:
    """A fleet of hosts with ``slots`` each, which enrol if the server requires it."""
    queues = []
    for _ in range(CLIENTS):
        connection = load.Connection(port)
        hosts = [Host(connection, slots, numbers) for _ in range(HOSTS // CLIENTS)]
        for host in hosts if enrolled else []:
            host.token = await load.enrol(connection, slots)
        queues.append(hosts)
    return Fleet(queues)


async def measure(folder: Path, port: int, bare: int, rounds: int) -> list[Fleet]:
    """Fleets of single tasks and of batches, at the server and at the bare server."""
    numbers = itertools.count()
    ours = [await fleet(port, slots, numbers, enrolled=True) for slots in (1, BATCH)]
    load.trust_all(folder)
    fleets = ours + [await fleet(bare, slots, numbers, enrolled=False) for slots in (1, BATCH)]
    for each in fleets:
        for hosts in each.queues:
            for host in hosts:
                await host.exchange()  # so that each host holds tasks to report
    for _ in range(rounds):
        for each in fleets:
            await each.work(ROUND_SECONDS)
    for each in fleets:
        for hosts in each.queues:
            hosts[0].connection.close()
    return fleets


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="use fewer for trials only")
    rounds = parser.parse_args().rounds
    with load.project() as folder:
        load.staff(folder, "publish", "--skip", "dry-run", str(EXPERIMENT))
        load.staff(folder, "deploy", "short_walk", "--count", str(QUEUED), "--budget", "0.01")
        with load.serving(folder) as port, load.serving_bare(folder, QUEUED_BARE) as bare:
            fleets = asyncio.run(measure(folder, port, bare, rounds))
    singles, batches, bare_singles, bare_batches = fleets
    sync, bare_sync = (median([r[0] for r in f.figures]) for f in (singles, bare_singles))
    many, bare_many = (median([r[1] for r in f.figures]) for f in (batches, bare_batches))
    report(
        "server_throughput",
        {
            "sync_per_second": sync, "workunits_per_second": many,
            "sync_ratio": sync / bare_sync, "workunits_ratio": many / bare_many,
            "load_average": os.getloadavg()[0],
        },
        {
            "name": "bare server, no authentication, policy, gate or replication",
            "starlette": version("starlette"), "psycopg": version("psycopg"),
            "sync_per_second": round(bare_sync), "workunits_per_second": round(bare_many),
            "boinc": BOINC,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
