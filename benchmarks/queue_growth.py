"""Measures whether the server becomes slower as a project grows.

    python -m benchmarks.queue_growth

It compares median times of the same step on a small and on a large project. Each has an embedded
PostgreSQL of its own; they take turns, and run the code that serves hosts and staff without HTTP.

grant_ratio        a grant of 32, with 1,000,000 workunits queued against a thousandth
report_ratio       32 reports
review_ratio       a review of 1,000 results
leaderboard_ratio  the top 100; these three with 100,000 hosts and 5,000,000 ledger rows against a
                   hundredth of both
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

from axiom_protocol.messages import Capacity, Grant, HostFacts, Report, SyncRequest
from axiom_server.config import Config
from axiom_server.project_folder import initialise
from axiom_server.publish.deploy import Order, execute_order
from axiom_server.publish.publish import publish, read_source
from axiom_server.review import review
from axiom_server.store import hosts, standing, users
from axiom_server.store.database import Connection, connect
from axiom_server.sync.catalogue import Catalogue
from axiom_server.sync.transaction import answer_sync
from benchmarks import load
from benchmarks.common import median, report

EXPERIMENT = load.ROOT / "tests" / "fixtures" / "experiments" / "short_walk.py"
BATCH = 32
REVIEWED = 1_000
REPEATS = 20  # of a step in one round; a small queue of 1,000 is long enough for them
ROUNDS = 7
TOKEN = b"bench"
FACTS = HostFacts(
    name="bench", os="linux", architecture="x86_64", cpu_cores=BATCH, memory_bytes=1 << 40,
    disk_free_bytes=1 << 40, environments=["numpy"],
)  # fmt: skip


Times: TypeAlias = tuple[float, ...]
Side: TypeAlias = "tuple[Project, Connection]"


class Project:
    """One project, with one host that computes."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.catalogue = Catalogue()
        self._numbers = itertools.count()

    async def sync(self, connection: Connection, held: list[Grant], cores: int) -> list[Grant]:
        """One sync: report the tasks that are held, ask for work for ``cores``."""
        request = SyncRequest(
            request_id=f"request-{next(self._numbers)}",
            capacity=Capacity(cpu_slots=BATCH, cpu_slots_free=cores, memory_free_bytes=1 << 40),
            reports=[
                Report(
                    task_id=g.task_id, outcome="success", elapsed_seconds=0.01, cpu_seconds=0.01,
                    result={"valid": 1, "configs_done": 3, "exponent": 0.5 + g.seed * 1e-9},
                )
                for g in held
            ],
        )  # fmt: skip
        await self.catalogue.refresh(connection)
        async with connection.transaction():
            answer = await answer_sync(connection, self.catalogue, self.config, TOKEN, request)
        return answer.grants

    async def grants_and_reports(self, connection: Connection) -> tuple[float, float]:
        """Median seconds of a grant of 32, and of 32 reports."""
        granted, reported = [], []
        for _ in range(REPEATS):
            began = time.perf_counter()
            held = await self.sync(connection, [], BATCH)
            between = time.perf_counter()
            await self.sync(connection, held, 0)
            ended = time.perf_counter()
            if len(held) != BATCH:
                raise RuntimeError(f"{len(held)} granted instead of {BATCH}")
            granted.append(between - began)
            reported.append(ended - between)
        return statistics.median(granted), statistics.median(reported)

    async def review(self, connection: Connection) -> float:
        """Seconds of a review of 1,000 results."""
        async with connection.transaction():
            await review.review(connection, self.config)
        for _ in range(-(-REVIEWED // BATCH)):
            await self.sync(connection, await self.sync(connection, [], BATCH), 0)
        began = time.perf_counter()
        async with connection.transaction():
            await review.review(connection, self.config)
        return time.perf_counter() - began

    async def leaderboard(self, connection: Connection) -> float:
        """Median seconds of the top 100."""
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            await users.listing(connection, 100)
            times.append(time.perf_counter() - began)
        return statistics.median(times)


async def deploy(connection: Connection, config: Config, count: int) -> None:
    """Queue workunits."""
    order = Order(names=["short_walk"], count=count)
    await execute_order(connection, order, config.deploy, config.standing)


async def populate(connection: Connection, host_count: int, entries: int) -> None:
    """Insert users and hosts with a history: ``host_count`` hosts (ten to a user), and ledger rows.

    entries  number of ledger rows
    """
    await connection.execute(
        """INSERT INTO users (name, credit_total)
           SELECT 'user ' || n, n FROM generate_series(1, %s) n""",
        (host_count // 10,),
    )
    await connection.execute(
        """INSERT INTO hosts (user_id, name, cpu_cores, last_seen_at)
           SELECT 1 + n %% %s, 'host ' || n, 8, now() - interval '1 day'
           FROM generate_series(1, %s) n""",
        (host_count // 10, host_count),
    )
    await connection.execute("INSERT INTO sessions (results, credit, record) VALUES (0, 0, '{}')")
    await connection.execute(
        "INSERT INTO experiments (name) VALUES ('before') ON CONFLICT DO NOTHING"
    )
    await connection.execute(
        """INSERT INTO credit (task_id, user_id, host_id, session_id, experiment_id,
                               elapsed_seconds, amount)
           SELECT -n, 1 + n %% %s, 1 + n %% %s, 1, 1, 100, 5 FROM generate_series(1, %s) n""",
        (host_count // 10, host_count, entries),
    )


@asynccontextmanager
async def opened(queued: int, host_count: int, entries: int) -> AsyncIterator[Side]:
    """A project of this size on a PostgreSQL of its own."""
    with tempfile.TemporaryDirectory(prefix="axiom-bench-") as name:
        folder = initialise(Path(name) / "p", "bench", None)
        with folder.database() as conninfo:
            async with connect(conninfo) as connection:
                await connection.set_autocommit(True)
                project = Project(folder.config())
                await users.ensure(connection, ["bench"])
                host_id = await hosts.enrol(connection, 1, FACTS, TOKEN)
                await standing.set_trusted(connection, host_id, True)  # it may hold any number
                source = read_source(EXPERIMENT)
                await publish(connection, folder, [source], {}, None)
                await deploy(connection, project.config, queued)
                if entries:
                    await populate(connection, host_count, entries)
                await connection.execute("VACUUM ANALYZE")
                yield project, connection


async def grant_round(project: Project, connection: Connection) -> Times:
    """Seconds of a grant; the queue is as long afterwards as before."""
    granted, _ = await project.grants_and_reports(connection)
    await deploy(connection, project.config, REPEATS * BATCH)
    return (granted,)


async def past_round(project: Project, connection: Connection) -> Times:
    """Seconds of a report, a review and a leaderboard."""
    _, reported = await project.grants_and_reports(connection)
    return (
        reported, await project.review(connection), await project.leaderboard(connection)
    )  # fmt: skip


async def compare(
    sides: list[Side], rounds: int, work: Callable[[Project, Connection], Awaitable[Times]]
) -> list[Times]:
    """The medians of each side; the sides' rounds take turns."""
    found: list[list[Times]] = [[] for _ in sides]
    for number in range(rounds + 1):
        for side, times in zip(sides, found, strict=True):
            taken = await work(*side)
            if number:  # the first warms caches and plans
                times.append(taken)
    return [tuple(map(median, map(list, zip(*times, strict=True)))) for times in found]


async def measure(queued: int, host_count: int, entries: int, rounds: int) -> dict[str, float]:
    """The four ratios, and the figures of the large side."""
    few = max(queued // 1_000, REPEATS * BATCH)
    async with opened(few, 0, 0) as small, opened(queued, 0, 0) as large:
        (few_grant,), (grant,) = await compare([small, large], rounds, grant_round)
    waiting = 2 * (rounds + 1) * (REPEATS * BATCH + REVIEWED)
    async with (
        opened(waiting, host_count // 100, entries // 100) as small,
        opened(waiting, host_count, entries) as large,
    ):
        before, after = await compare([small, large], rounds, past_round)
    names = ("report", "review", "leaderboard")
    return {
        "grant_ratio": grant / few_grant,
        **{f"{n}_ratio": b / a for n, a, b in zip(names, before, after, strict=True)},
        "grant_ms": 1000 * grant,
        **{f"{n}_ms": 1000 * b for n, b in zip(names, after, strict=True)},
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--queued", type=int, default=1_000_000)
    parser.add_argument("--hosts", type=int, default=100_000)
    parser.add_argument("--entries", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="use fewer for trials only")
    given = parser.parse_args()
    os.environ.pop("AXIOM_DATABASE_URL", None)
    figures = asyncio.run(measure(given.queued, given.hosts, given.entries, given.rounds))
    baseline = {
        "name": "the same step on a small project", "queued": given.queued // 1_000,
        "hosts": given.hosts // 100, "ledger_rows": given.entries // 100,
        "psycopg": version("psycopg"),
    }  # fmt: skip
    report("queue_growth", figures, baseline)


if __name__ == "__main__":
    main()
