"""Does the server slow down as the project grows? `python -m benchmarks.queue_growth`

Median times of the same step on a small and on a large project, on embedded PostgreSQL, through the
code that serves hosts and staff (no HTTP). Prints JSON:

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
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from axiom_protocol.messages import Capacity, Grant, HostFacts, Report, SyncRequest
from axiom_server import deployment, publishing, review
from axiom_server.catalogue import Catalogue
from axiom_server.config import Config
from axiom_server.exchange import exchange
from axiom_server.folder import Folder, initialise
from axiom_server.store import hosts, users
from axiom_server.store.database import Connection, connect
from benchmarks import load

EXPERIMENT = load.ROOT / "tests" / "fixtures" / "experiments" / "short_walk.py"
BATCH = 32
REVIEWED = 1_000
REPEATS = 60
TOKEN = b"bench"
FACTS = HostFacts(
    name="bench", os="linux", architecture="x86_64", cpu_cores=BATCH, memory_bytes=1 << 40,
    disk_free_bytes=1 << 40, environments=["numpy"],
)  # fmt: skip


class Project:
    """One project of a given size, and one host of it that works."""

    def __init__(self, conninfo: str, config: Config) -> None:
        self.conninfo, self.config = conninfo, config
        self.catalogue = Catalogue(live_seconds=1800)
        self._numbers = itertools.count()

    async def sync(self, connection: Connection, held: list[Grant], cores: int) -> list[Grant]:
        """One exchange: report what is held, ask for ``cores`` more."""
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
            answer = await exchange(connection, self.catalogue, self.config, TOKEN, request)
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

    async def reviews(self, connection: Connection) -> float:
        """Median seconds of a review of 1,000 results."""
        times = []
        for _ in range(5):
            for _ in range(-(-REVIEWED // BATCH)):
                await self.sync(connection, await self.sync(connection, [], BATCH), 0)
            began = time.perf_counter()
            async with connection.transaction():
                await review.review(connection, self.config)
            times.append(time.perf_counter() - began)
        return statistics.median(times[1:])

    async def leaderboard(self, connection: Connection) -> float:
        """Median seconds of the top 100."""
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            await users.listing(connection, 100)
            times.append(time.perf_counter() - began)
        return statistics.median(times)


async def deploy(connection: Connection, folder: Folder, count: int) -> None:
    """Queue workunits."""
    source = publishing.read_source(EXPERIMENT)
    await publishing.publish(connection, folder, [source], {}, None)
    config = folder.config().deploy
    await deployment.make(connection, deployment.Order(names=["short_walk"], count=count), config)


async def populate(connection: Connection, host_count: int, entries: int) -> None:
    """Users and hosts with a past: so many hosts (ten to a user), so many ledger rows."""
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


async def measure(
    scale: int, work: Callable[[Project, Connection, Folder], Awaitable[tuple[float, ...]]]
) -> tuple[float, ...]:
    """Run ``work`` on a project of its own."""
    with tempfile.TemporaryDirectory(prefix=f"axiom-bench-{scale}-") as name:
        folder = initialise(Path(name) / "p", "bench", None)
        with folder.database() as conninfo:
            async with connect(conninfo) as connection:
                await connection.set_autocommit(True)
                project = Project(conninfo, folder.config())
                await users.ensure(connection, ["bench"])
                await hosts.enrol(connection, 1, FACTS, TOKEN)
                return await work(project, connection, folder)


async def compare(queued: int, host_count: int, entries: int) -> dict[str, float]:
    """The four ratios."""

    def grants(count: int) -> Callable[..., Awaitable[tuple[float, ...]]]:
        async def work(
            project: Project, connection: Connection, folder: Folder
        ) -> tuple[float, ...]:
            await deploy(connection, folder, count)
            await connection.execute("VACUUM ANALYZE")
            return (await project.grants_and_reports(connection))[:1]

        return work

    def past(part: int) -> Callable[..., Awaitable[tuple[float, ...]]]:
        async def work(
            project: Project, connection: Connection, folder: Folder
        ) -> tuple[float, ...]:
            await deploy(connection, folder, 20_000)
            await populate(connection, host_count // part, entries // part)
            await connection.execute("VACUUM ANALYZE")
            _, report = await project.grants_and_reports(connection)
            board = await project.leaderboard(connection)
            return report, await project.reviews(connection), board

        return work

    few = max(queued // 1_000, BATCH * REPEATS + 100)  # enough that the small queue lasts
    (small_grant,), (large_grant,) = await measure(1, grants(few)), await measure(2, grants(queued))
    small, large = await measure(3, past(100)), await measure(4, past(1))
    names = ("report_ratio", "review_ratio", "leaderboard_ratio")
    ratios = {name: b / a for name, a, b in zip(names, small, large, strict=True)}
    return {
        "grant_ratio": large_grant / small_grant,
        **ratios,
        "grant_seconds": large_grant,
        "report_seconds": large[0],
        "review_seconds": large[1],
        "leaderboard_seconds": large[2],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queued", type=int, default=1_000_000)
    parser.add_argument("--hosts", type=int, default=100_000)
    parser.add_argument("--entries", type=int, default=5_000_000)
    given = parser.parse_args()
    os.environ.pop("AXIOM_DATABASE_URL", None)
    found = asyncio.run(compare(given.queued, given.hosts, given.entries))
    print(json.dumps({name: round(value, 5) for name, value in found.items()}))


if __name__ == "__main__":
    main()
