"""How long pages take with 100,000 hosts and 5,000,000 credited results, and beside syncs.

    python -m benchmarks.pages [--hosts N] [--results N] [--rounds N]

The data are made in the database by SQL. Times are the server's own: from a request's arrival in
the application to its answer, without a network. Then pages and syncs run together, and the syncs'
times are compared with those without pages.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import msgspec
import psycopg

from axiom_protocol.messages import Capacity, SyncRequest
from axiom_server.config import Config
from axiom_server.decide.rates import Limits
from axiom_server.maintenance import Maintenance, run_round
from axiom_server.store.database import make_pool
from axiom_server.sync.batcher import SyncBatcher
from axiom_server.trust.repository import Repository
from axiom_server.web.api import Api, application
from axiom_server.web.metrics import Metrics
from tests.support.cluster import cluster, fresh_database
from tests.support.server_project import ServerProject

HOSTS_PER_USER = 5
RESULTS_PER_SESSION = 10_000
TEAMS = 200
SYNCING = 50  # hosts that sync while pages are read
SYNC_SECONDS = 8.0  # of each of the two measurements

#: Fills the project: users, hosts, teams, sessions over 60 days, tasks, the ledger and its sums.
DATA = """
INSERT INTO teams (name) SELECT 'team ' || i FROM generate_series(1, {teams}) i;
INSERT INTO users (user_id, name, account_key, team_id, average, average_at, created_at)
SELECT 1000 + i, 'volunteer ' || i, sha256(('key' || i)::bytea),
       CASE WHEN i % 3 = 0 THEN 1 + i % {teams} END, 1 + random() * 1000,
       now() - random() * interval '20 days', now() - interval '90 days'
FROM generate_series(0, {users} - 1) i;
INSERT INTO hosts (host_id, user_id, name, token, cpu_cores, gpus, memory_bytes, environments,
                   idle_cpu, last_seen_at, average, average_at, facts)
SELECT 1000 + i, 1000 + i % {users}, 'host ' || i, sha256(('token' || i)::bytea), 8, i % 2,
       1::bigint << 34, '{{numpy,torch}}', i % 8, now() - random() * interval '1 hour',
       random() * 100, now(),
       jsonb_build_object('os', 'linux', 'architecture', 'x86_64', 'gpus', '[]'::jsonb)
FROM generate_series(0, {hosts} - 1) i;
INSERT INTO sessions (session_id, opened_at, results, credit, record)
SELECT 1000 + i, now() - interval '60 days' * (1 - i / {sessions}::float8), {per_session},
       5 * {per_session}, (SELECT record FROM sessions WHERE session_id = 1)
FROM generate_series(0, {sessions} - 1) i;
INSERT INTO tasks (task_id, experiment_id, version_id, host_id, user_id, state, granted_at,
                   deadline_at, ended_at, outcome, claimed_seconds, elapsed_seconds)
SELECT 1000 + i, 1 + i % 2, 1 + i % 2, 1000 + i % {hosts}, 1000 + (i % {hosts}) % {users},
       'reviewed', now(), now(), now() - interval '1 day', 'success', 200, 200
FROM generate_series(0, {results} - 1) i;
INSERT INTO credit (task_id, user_id, host_id, session_id, experiment_id, elapsed_seconds, amount)
SELECT task_id, user_id, host_id, 1000 + (task_id - 1000) / {per_session}, experiment_id, 200, 5
FROM tasks WHERE task_id >= 1000;
TRUNCATE user_sessions, host_sessions, user_experiments, host_outcomes;
INSERT INTO user_sessions SELECT user_id, session_id, count(*), sum(amount) FROM credit
GROUP BY 1, 2;
INSERT INTO host_sessions SELECT host_id, session_id, count(*), sum(amount) FROM credit
GROUP BY 1, 2;
INSERT INTO user_experiments SELECT user_id, experiment_id, count(*), sum(amount) FROM credit
GROUP BY 1, 2;
INSERT INTO host_outcomes SELECT host_id, outcome, count(*) FROM tasks GROUP BY 1, 2;
UPDATE users u SET credit_total = c.s FROM (
    SELECT user_id, sum(amount) AS s FROM credit GROUP BY 1) c WHERE c.user_id = u.user_id;
UPDATE hosts h SET credit_total = c.s FROM (
    SELECT host_id, sum(amount) AS s FROM credit GROUP BY 1) c WHERE c.host_id = h.host_id;
"""

PATHS = (
    "/", "/experiments", "/experiments/short_walk", "/leaders", "/leaders?order=recent",
    "/leaders?order=day", "/leaders?page=100", "/leaders/short_walk", "/users/1007", "/hosts/1007",
    "/teams", "/teams/7", "/sessions", "/sessions/1001", "/status", "/status.json", "/status.xml",
    "/feeds/findings.atom", "/feeds/sessions.atom", "/charts/credit.light.svg",
    "/charts/users/1007.light.svg", "/users/1007/badge.svg", "/users/1007/certificate.svg",
)  # fmt: skip

Client = httpx.AsyncClient


def main() -> None:
    """Make the data, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=int, default=100_000)
    parser.add_argument("--results", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=50)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster(Path(folder)) as postgres,
        fresh_database(postgres) as conninfo,
    ):
        Path(folder).chmod(0o755)
        fill(conninfo, given.hosts, given.results)
        asyncio.run(measure(conninfo, Path(folder), given.rounds))


def fill(conninfo: str, hosts: int, results: int) -> None:
    """A small reviewed project, then everything else by SQL."""
    began = time.perf_counter()
    project = ServerProject(conninfo)
    project.publish()
    project.publish("short_walk", name="second_walk")
    project.deploy("short_walk", count=20)
    host = project.host("first", cores=20)
    host.sync()
    project.later(60)
    host.succeed_all(cpu=0)
    project.review()
    sessions = max(1, results // RESULTS_PER_SESSION)
    script = DATA.format(
        hosts=hosts, users=max(1, hosts // HOSTS_PER_USER), results=results, teams=TEAMS,
        sessions=sessions, per_session=min(results, RESULTS_PER_SESSION),
    )  # fmt: skip
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(script.encode())
        connection.execute("VACUUM ANALYZE")
    print(f"{hosts:,} hosts, {results:,} results: made in {time.perf_counter() - began:.0f} s")


async def measure(conninfo: str, folder: Path, rounds: int) -> None:
    """Each page alone, then syncs without and with pages beside them."""
    free = Limits(host_burst=0, address_burst=0)
    config, pool = Config(limits=free), make_pool(conninfo)
    batcher = SyncBatcher(pool=pool, config=config)
    api = Api(config=config, bundles=folder / "bundles", pool=pool, batcher=batcher,
              metrics=Metrics())  # fmt: skip
    repository = Repository(folder / "bundles")
    app = application(api, Maintenance(pool=pool, config=config, bundles=repository))
    await pool.open()
    transport = httpx.ASGITransport(app)
    async with Client(transport=transport, base_url="http://here", timeout=60) as client:
        began = time.perf_counter()
        async with pool.connection() as connection:
            await run_round(connection, config)
        print(f"maintenance round with the snapshot: {1000 * (time.perf_counter() - began):.0f} ms")
        for path in PATHS:
            report(path, await timed(rounds, lambda path=path: page(client, path)))
        alone = await sync_for(client, SYNC_SECONDS)
        stop = asyncio.Event()
        readers = [asyncio.create_task(read_until(client, stop, i)) for i in range(2)]
        beside = await sync_for(client, SYNC_SECONDS)
        stop.set()
        read = sum(await asyncio.gather(*readers))
        report("syncs alone", alone)
        report("syncs beside pages", beside)
        print(
            f"{read / SYNC_SECONDS:.0f} pages and {len(beside) / SYNC_SECONDS:.0f} syncs a second"
        )
    await pool.close()


async def timed(rounds: int, work: Callable[[], Awaitable[None]]) -> list[float]:
    """Seconds of each of so many runs, after one that is not counted."""
    await work()
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        await work()
        found.append(time.perf_counter() - began)
    return found


async def page(client: Client, path: str) -> None:
    """Read one page."""
    (await client.get(path)).raise_for_status()


async def read_until(client: Client, stop: asyncio.Event, first: int) -> int:
    """Read page after page, a reader's pause between them; how many."""
    count = first
    while not stop.is_set():
        await page(client, PATHS[count % len(PATHS)])
        count += 1
        await asyncio.sleep(0.05)
    return count - first


async def sync_for(client: Client, seconds: float) -> list[float]:
    """Syncs of SYNCING hosts at a time, twenty a second each at most; their seconds."""
    until = time.perf_counter() + seconds
    found: list[float] = []

    async def one(host: int) -> None:
        number = 0
        while time.perf_counter() < until:
            began = time.perf_counter()
            number += 1
            request = SyncRequest(
                request_id=f"bench-{began:.6f}-{number}",
                capacity=Capacity(cpu_slots=8, gpu_slots=0, memory_free_bytes=1 << 34,
                                  cpu_slots_free=0, gpu_slots_free=0, disk_free_bytes=1 << 34,
                                  buffer_seconds=0.0),
                in_hand=[], reports=[],
            )  # fmt: skip
            answer = await client.post(
                "/api/v1/sync", content=msgspec.json.encode(request),
                headers={"authorization": f"Bearer token{host}"},
            )  # fmt: skip
            answer.raise_for_status()
            found.append(time.perf_counter() - began)
            await asyncio.sleep(0.25)

    await asyncio.gather(*(one(i) for i in range(1, SYNCING + 1)))
    return found


def report(name: str, seconds: list[float]) -> None:
    """Print the median and the 99th percentile in milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    print(
        f"{name:28} median {1000 * statistics.median(ordered):7.2f} ms   p99 {1000 * p99:7.2f} ms"
    )


if __name__ == "__main__":
    main()
