"""Where the time of one sync goes: in the serving process by parts, and in PostgreSQL.

The floors are measured in the same minutes with the same generator: the bare server of
`benchmarks.reference` (one statement for reports, one for grants, nothing checked) on the same
PostgreSQL, and a web server that answers without doing anything.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import load
from benchmarks.results import table
from benchmarks.server_throughput import BATCH, EXPERIMENT, Fleet, fleet
from benchmarks.usage import database_process, tree_seconds

QUEUED = 200_000
QUEUED_BARE = 3_000_000  # more than it grants, which it does faster
SECONDS = 5.0


@dataclass(kw_only=True)
class Cost:
    """Of one kind of server: syncs a second, workunits a second, and microseconds for each sync.

    parts   microseconds in the serving process by part; empty where it was not sampled
    """

    syncs: float
    workunits: float
    serving_us: float
    database_us: float
    parts: dict[str, float]


def measure() -> list[tuple[str, Cost, Cost]]:
    """(size of a sync, cost here, cost of the bare server), for single tasks and for batches."""
    found = []
    with load.project() as folder:
        load.staff(folder, "publish", "--skip", "dry-run", str(EXPERIMENT))
        load.staff(folder, "deploy", "short_walk", "--count", str(QUEUED), "--budget", "1")
        for slots in (1, BATCH):
            ours = _ours(folder, slots)
            with load.serving_bare(folder, QUEUED_BARE) as port:
                bare = asyncio.run(_load(folder, port, slots, "bare_server", enrolled=False))
            _drop_bare(folder)
            found.append((f"{slots} task{'s' if slots > 1 else ''}", ours, bare))
    return found


def _drop_bare(folder: Path) -> None:
    import psycopg

    from benchmarks.fleet_http import cluster_of

    with cluster_of(folder) as conninfo, psycopg.connect(conninfo, autocommit=True) as db:
        db.execute("DROP DATABASE bare WITH (FORCE)")


def _ours(folder: Path, slots: int) -> Cost:
    with tempfile.TemporaryDirectory() as scratch:
        out, port = Path(scratch) / "samples", load.free_port()
        line = [sys.executable, "-m", "benchmarks.profiles.sampler", str(out), "server", "serve",
                "--port", str(port)]  # fmt: skip
        with load.listening(line, load.environment(folder), port):
            load.wait_ready(port)
            cost = asyncio.run(_load(folder, port, slots, "serve", enrolled=True))
        counts: dict[str, int] = json.loads(out.read_text())
    counts.pop("imports", None)  # of the start, before the load
    total = sum(counts.values())
    cost.parts = {name: cost.serving_us * n / total for name, n in counts.items()}
    return cost


async def _load(folder: Path, port: int, slots: int, program: str, *, enrolled: bool) -> Cost:
    """Load a server for SECONDS, and measure what it uses."""
    hosts: Fleet = await fleet(port, slots, itertools.count(), enrolled=enrolled)
    if enrolled:
        load.trust_all(folder)
    for queue in hosts.queues:
        for host in queue:
            await host.exchange()
    serving = next(c for c in psutil.Process().children() if program in " ".join(c.cmdline()))
    database = database_process(folder)
    before = tree_seconds(serving), tree_seconds(database)
    await hosts.work(SECONDS)
    used = tree_seconds(serving) - before[0], tree_seconds(database) - before[1]
    syncs, workunits = hosts.figures[0]
    for queue in hosts.queues:
        queue[0].connection.close()
    count = syncs * SECONDS
    return Cost(
        syncs=syncs, workunits=workunits, serving_us=1e6 * used[0] / count,
        database_us=1e6 * used[1] / count, parts={},
    )  # fmt: skip


def tables() -> str:
    """The tables in Markdown."""
    found = measure()
    rows = [
        [f"{size}: {name}", f"{cost.syncs:,.0f}", f"{cost.workunits:,.0f}",
         f"{cost.serving_us:,.0f}", f"{cost.database_us:,.0f}"]
        for size, ours, bare in found for name, cost in (("this server", ours), ("bare", bare))
    ]  # fmt: skip
    header = ["a sync of", "syncs a second", "workunits a second", "serving, µs CPU",
              "PostgreSQL, µs CPU"]  # fmt: skip
    parts = sorted(
        {name for _, ours, _ in found for name in ours.parts},
        key=lambda name: -found[0][1].parts.get(name, 0.0),
    )
    by_part = [
        [name, *(f"{ours.parts.get(name, 0.0):,.0f}" for _, ours, _ in found)] for name in parts
    ]
    shares = [
        ["workunits, share of bare", *(f"{o.workunits / b.workunits:.2f}" for _, o, b in found)],
    ]
    sizes = [size for size, _, _ in found]
    return "\n\n".join(
        [table(header, rows), table(["µs in the serving process", *sizes], by_part),
         table(["", *sizes], shares)]
    )  # fmt: skip
