"""Simulated hosts on the real server: its sync, rounds and reviews on a real PostgreSQL.

Only the clock of the server is replaced. Its SQL gets the time from ``now()`` and
``clock_timestamp()``: functions of these names, which are found before PostgreSQL's own, return the
simulated time, and the serving process gets the same clock. Hosts are simulated (hosts.py).
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import msgspec
import psycopg
from psycopg.conninfo import make_conninfo

from axiom_protocol.manifest import Manifest, read_manifest
from axiom_protocol.messages import GpuFacts, HostFacts, SyncRequest
from axiom_server.config import Config, DeployConfig, ServeConfig
from axiom_server.decide.retry import ATTEMPTS_MAX
from axiom_server.maintenance import rounds
from axiom_server.publish import deploy
from axiom_server.publish.deploy import Order
from axiom_server.review.review import review
from axiom_server.store import experiments, hosts, users
from axiom_server.store.database import Connection, migrate
from axiom_server.sync.catalogue import Catalogue
from axiom_server.sync.transaction import SyncCall, answer_syncs
from tests.fleet.hosts import DAY, GIB, HOUR, SimulatedHost, fleet, truth
from tests.support.server_project import EXPERIMENTS

BEGINS = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
TICK = 300.0  # hosts that are due within it sync together; few hosts may take a longer one
HOSTS_IN_TURN = 48  # as turns.HOSTS_MAX
TASKS_IN_TURN = 1_500
ROUND_EVERY = 900.0
REVIEW_EVERY = DAY
LOOK_EVERY = 6 * HOUR  # after the last day: has all ended?
LAST_LEASES_DAYS = 4.0  # the longest experiment on the slowest host takes less than three
#: A sync a minute from 1,000 hosts would be 14 million: they come every two hours here.
CONFIG = Config(
    serve=ServeConfig(sync_seconds=2 * HOUR, idle_sync_seconds=2 * HOUR, round_seconds=ROUND_EVERY),
    deploy=DeployConfig(live_minutes=300.0, hold_hours=6.0),
)
CLOCK = """
CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT pg_catalog.current_setting('axiom.now')::pg_catalog.timestamptz $$;
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT pg_catalog.current_setting('axiom.now')::pg_catalog.timestamptz $$"""

#: The idle hosts of the log's evening, as (cores, GPUs): five named ones and forty of 32 cores.
LOG_SIZES = ((240, 0), (192, 2), (128, 1), (72, 2), (64, 1), *[(32, 0)] * 27, *[(32, 1)] * 13)
#: ... and how many hosts each of its users has.
LOG_OWNED = (3, 14, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)

#: Experiments, with their declared hours: tasks are long, so that ten days are not too many.
LIBRARY = {"sam_vs_sgd": ("torch", 8.0), "catapult": ("numpy", 12.0), "rank": ("numpy", 16.0)}


@dataclass(kw_only=True)
class Outcome:
    """The outcome of the simulated days."""

    hosts: int
    days: float
    ended_after_days: (
        float  # more than ``days`` when slow hosts still had what they were given last
    )
    honest: int
    workunits: int
    unended: list[str]  # workunits, and what became of their tasks
    over_committed: list[str]
    liars_free: list[str]  # kinds of those that lied and were not found
    liars_found_after_days: dict[str, float]  # by kind, the latest
    honest_quarantined: dict[str, str]  # host: why
    stopped: list[str]
    overhead: float
    overhead_by_day: dict[int, float]
    overhead_trusted: float
    wrong_left: int  # wrong numbers that still count
    given_up: int  # workunits that ended without a result
    results: int
    credited: int
    syncs: int
    seconds: float

    def lines(self) -> list[str]:
        """The report."""
        days = ", ".join(f"{day}: {share:.1%}" for day, share in self.overhead_by_day.items())
        found = ", ".join(f"{k} {d:.1f}" for k, d in sorted(self.liars_found_after_days.items()))
        return [
            f"{self.hosts} hosts ({self.honest} honest), {self.workunits:,} workunits, "
            f"{self.syncs:,} syncs in {self.seconds:.0f} s",
            f"workunits that did not end: {len(self.unended)} {self.unended[:5]} "
            f"(looked at after {self.ended_after_days:.2f} days)",
            f"hosts ever over-committed: {len(self.over_committed)} {self.over_committed[:5]}",
            f"liars not quarantined: {len(self.liars_free)} {dict(Counter(self.liars_free))}",
            f"the last of each kind found on day: {found}",
            f"honest hosts ever quarantined: {len(self.honest_quarantined)} "
            f"({len(self.honest_quarantined) / self.honest:.2%}) "
            f"{dict(itertools.islice(self.honest_quarantined.items(), 5))}",
            f"experiments stopped: {self.stopped}",
            f"overhead of replication: {self.overhead:.1%} in all; by day {days}",
            f"... of results of trusted hosts: {self.overhead_trusted:.1%}",
            f"workunits given up: {self.given_up}; wrong numbers left: {self.wrong_left} of "
            f"{self.results:,}; "
            f"results credited: {self.credited:,}",
        ]


@dataclass(kw_only=True)
class Simulation:
    """One run. ``conninfo``: a new empty database.

    All random numbers come from ``seed``, also those of the server (which results it checks, and on
    which hosts), which are not predictable in a real project.
    """

    conninfo: str
    seed: int = 1
    count: int = 1_000
    days: float = 10.0
    liars_share: float = 0.07
    workunits_per_slot: float = 6.0
    tick: float = TICK
    cores_share: int = 1  # of the log's hosts: 8 makes each an eighth as large
    config: Config = CONFIG
    library: Mapping[str, tuple[str, float]] = field(default_factory=lambda: LIBRARY)
    verbose: bool = False
    now: float = 0.0
    rng: random.Random = field(init=False)
    hosts: list[SimulatedHost] = field(init=False)
    syncs: int = 0
    trusted_results: int = 0
    trusted_checked: int = 0
    found_at: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.hosts = fleet(self.count, self.days, LOG_SIZES, LOG_OWNED, self.rng, self.liars_share)

    async def run(self) -> Outcome:
        """Let the days pass."""
        began = time.perf_counter()
        async with self._connection() as connection:
            await self._prepare(connection)
            catalogue = Catalogue(clock=lambda: self.now)
            for tick in itertools.count(1):
                await self._set_clock(connection, tick * self.tick)
                if self.now > self.days * DAY and await self._at_rest(connection):
                    break
                await self._tick(connection, catalogue)
            return await self._outcome(connection, time.perf_counter() - began)

    async def _at_rest(self, connection: Connection) -> bool:
        """Whether all has ended; what slow hosts were given last may run until its deadline."""
        if self.now > (self.days + LAST_LEASES_DAYS) * DAY:
            return True
        if self.now % LOOK_EVERY >= self.tick:
            return False
        return await (await connection.execute(UNENDED)).fetchone() is None

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        with psycopg.connect(self.conninfo) as first:
            first.execute(CLOCK)
        shown = make_conninfo(
            self.conninfo,
            options=f"-c search_path=public,pg_catalog -c axiom.now={BEGINS:%Y-%m-%dT%H:%M:%SZ}",
        )
        migrate(shown)
        connection = await psycopg.AsyncConnection.connect(shown, autocommit=True)
        draws = random.Random(f"server {self.seed}")
        async with connection:
            await connection.execute("SELECT setseed(%s)", (draws.uniform(-1.0, 1.0),))
            with mock.patch("secrets.randbits", draws.getrandbits):
                yield connection

    async def _set_clock(self, connection: Connection, now: float) -> None:
        self.now = now
        at = BEGINS + timedelta(seconds=now)
        await connection.execute("SELECT set_config('axiom.now', %s, false)", (at.isoformat(),))

    async def _prepare(self, connection: Connection) -> None:
        """Publish, enrol, deploy."""
        async with connection.transaction():
            for manifest in manifests(self.library):
                await experiments.record_version(connection, manifest, "0" * 64, None)
            ids = await users.ensure(connection, sorted({h.user for h in self.hosts}))
            for host in self.hosts:
                host.host_id = await hosts.enrol(
                    connection, ids[host.user], host_facts(host), host.token
                )
            slots = sum(sum(h.slots.values()) for h in self.hosts)
            gpus = sum(h.slots["gpu"] for h in self.hosts)
            per_slot = self.workunits_per_slot
            for order in (
                Order(names=list(self.library), count=round((slots - gpus) * per_slot)),
                Order(names=["sam_vs_sgd"], count=round(gpus * per_slot), gpu=True),
            ):
                await deploy.execute_order(
                    connection, order, self.config.deploy, self.config.standing
                )

    async def _tick(self, connection: Connection, catalogue: Catalogue) -> None:
        due = [h for h in self.hosts if h.due <= self.now and h.is_online(self.now)]
        for turn in _turns([(host, host.request(self.now)) for host in due]):
            await self._sync(connection, catalogue, turn)
        if self.now % ROUND_EVERY < self.tick:
            await rounds.run_round(connection, self.config)
            await self._look(connection)
        if self.now % REVIEW_EVERY < self.tick:
            async with connection.transaction():
                log = await review(connection, self.config)
            if self.verbose:
                print(f"day {self.now / DAY:.0f}: {log.results:,} credited", flush=True)

    async def _sync(
        self, connection: Connection, catalogue: Catalogue,
        turn: Sequence[tuple[SimulatedHost, SyncRequest]],
    ) -> None:  # fmt: skip
        asked = [SyncCall(token=host.token, request=request) for host, request in turn]
        await catalogue.refresh(connection)
        async with connection.pipeline(), connection.transaction():
            said = await answer_syncs(connection, catalogue, self.config, asked)
        for host, _ in turn:
            host.receive(said.answers[host.token], self.now)
        self.syncs += len(turn)

    async def _look(self, connection: Connection) -> None:
        """Record the quarantined hosts, and hosts that hold too many tasks by the database."""
        cursor = await connection.execute("SELECT host_id FROM hosts WHERE state = 'quarantined'")
        for (host_id,) in await cursor.fetchall():
            self.found_at.setdefault(host_id, self.now / DAY)
        cursor = await connection.execute(
            """SELECT h.host_id FROM hosts h JOIN tasks t USING (host_id) WHERE t.state = 'leased'
               GROUP BY h.host_id, t.device HAVING count(*) > max(
                   CASE t.device WHEN 'gpu' THEN h.gpus ELSE h.cpu_cores END)"""
        )
        held = {host_id for (host_id,) in await cursor.fetchall()}
        for host in self.hosts:
            if host.host_id in held and not host.buffer_seconds:
                host.over_committed += 1

    async def _outcome(self, connection: Connection, seconds: float) -> Outcome:
        async def value(query: str) -> Any:
            row = await (await connection.execute(query)).fetchone()
            assert row is not None
            return row[0]

        by_id = {h.host_id: h for h in self.hosts}
        cursor = await connection.execute(
            "SELECT host_id, state_reason FROM hosts WHERE state = 'quarantined'"
        )
        quarantined = dict(await cursor.fetchall())
        cursor = await connection.execute(
            """SELECT floor(extract(epoch FROM granted_at - %s) / 86400)::int,
                      count(*) FILTER (WHERE purpose = 'first'),
                      count(*) FILTER (WHERE purpose <> 'first')
               FROM tasks WHERE state <> 'lost' GROUP BY 1 ORDER BY 1""",
            (BEGINS,),
        )
        days = await cursor.fetchall()
        cursor = await connection.execute("SELECT name FROM experiments e JOIN versions v USING "
                                          "(experiment_id) WHERE v.state = 'stopped'")  # fmt: skip
        stopped = [name for (name,) in await cursor.fetchall()]
        found: dict[str, float] = {}
        for host_id, day in self.found_at.items():
            if (host := by_id[host_id]).liar:
                found[host.kind] = max(found.get(host.kind, 0.0), day)
        later = [(f, r) for day, f, r in days if day >= 3]
        return Outcome(
            hosts=self.count,
            days=self.days,
            ended_after_days=self.now / DAY,
            honest=sum(not h.liar for h in self.hosts),
            workunits=await value("SELECT count(*) FROM workunits"),
            unended=await self._unended(connection, by_id),
            over_committed=[f"{h.name} ({h.kind})" for h in self.hosts if h.over_committed],
            liars_free=[
                h.kind for h in self.hosts if h.liar and h.lied and h.host_id not in quarantined
            ],
            liars_found_after_days=found,
            honest_quarantined={
                f"{by_id[i].name} ({by_id[i].kind})": reason
                for i, reason in quarantined.items()
                if not by_id[i].liar
            },
            stopped=stopped,
            overhead=sum(r for _, _, r in days) / max(1, sum(f for _, f, _ in days)),
            overhead_by_day={day: r / max(1, f) for day, f, r in days},
            overhead_trusted=sum(r for _, r in later) / max(1, sum(f for f, _ in later)),
            wrong_left=await self._wrong(connection),
            given_up=await value(
                "SELECT count(*) FROM workunits w WHERE NOT EXISTS "
                "(SELECT FROM results r WHERE r.workunit_id = w.workunit_id)"
            ),
            results=await value("SELECT count(*) FROM results"),
            credited=await value("SELECT count(*) FROM credit"),
            syncs=self.syncs,
            seconds=seconds,
        )

    async def _unended(self, connection: Connection, by_id: dict[int, SimulatedHost]) -> list[str]:
        cursor = await connection.execute(UNENDED)
        return [
            f"workunit {workunit}: comparison {comparison}, {queued} queued, tasks "
            + "; ".join(
                f"{t['purpose']} {t['state']} on {by_id[t['host']].kind} "
                f"(pace {by_id[t['host']].pace:.1f}) since day {t['day']:.1f}"
                for t in tasks
            )
            for workunit, comparison, queued, tasks in await cursor.fetchall()
        ]

    async def _wrong(self, connection: Connection) -> int:
        cursor = await connection.execute(
            """SELECT e.name, w.seed, (r.result ->> 'exponent')::float8 FROM results r
               JOIN workunits w USING (workunit_id) JOIN versions v ON v.version_id = r.version_id
               JOIN experiments e USING (experiment_id)"""
        )
        return sum(
            abs(number / truth(name, seed) - 1) > 1e-6
            for name, seed, number in await cursor.fetchall()
        )


#: Workunits that have not ended. A workunit has ended when it is not queued, running or compared,
#: and has a result or was given up after the allowed number of faults.
UNENDED = f"""
SELECT w.workunit_id, (SELECT c.state FROM comparisons c WHERE c.workunit_id = w.workunit_id),
       (SELECT count(*) FROM queue q WHERE q.workunit_id = w.workunit_id),
       (SELECT COALESCE(json_agg(json_build_object('purpose', t.purpose, 'state', t.state,
               'host', t.host_id, 'day', extract(epoch FROM t.granted_at - '{BEGINS}') / 86400)
               ORDER BY t.task_id), '[]') FROM tasks t WHERE t.workunit_id = w.workunit_id)
FROM (
    SELECT workunit_id FROM queue
    UNION SELECT workunit_id FROM tasks WHERE state = 'leased'
    UNION SELECT workunit_id FROM comparisons WHERE state IN ('wanted', 'placed', 'disputed')
    UNION SELECT n.workunit_id FROM workunits n
          WHERE NOT EXISTS (SELECT FROM results r WHERE r.workunit_id = n.workunit_id)
            AND NOT EXISTS (SELECT FROM tasks t WHERE t.workunit_id = n.workunit_id
                            AND t.attempt >= {ATTEMPTS_MAX})
) w
ORDER BY w.workunit_id"""


def manifests(library: Mapping[str, tuple[str, float]]) -> Iterator[Manifest]:
    """Experiments of these names, environments and hours; all of them are the short walk."""
    walk = read_manifest((EXPERIMENTS / "short_walk.py").read_text())
    for name, (environment, hours) in library.items():
        yield msgspec.structs.replace(
            walk, name=name, expected_seconds=hours * HOUR, findings=[],
            dependencies=["numpy"] if environment == "numpy" else ["numpy", "torch"],
        )  # fmt: skip


def host_facts(host: SimulatedHost) -> HostFacts:
    gpus = [GpuFacts(uuid=str(n), name="gpu", memory_bytes=GIB) for n in range(host.slots["gpu"])]
    return HostFacts(
        name=host.name, os="linux", architecture="x86_64", cpu_cores=host.slots["cpu"],
        memory_bytes=host.slots["cpu"] * 2 * GIB, disk_free_bytes=100 * GIB, gpus=gpus,
        environments=["numpy", "torch"],
    )  # fmt: skip


def _turns(
    asked: Sequence[tuple[SimulatedHost, SyncRequest]],
) -> Iterator[list[tuple[SimulatedHost, SyncRequest]]]:
    """Group requests as sync/batcher.py does: by number of hosts and of tasks."""
    turn: list[tuple[SimulatedHost, SyncRequest]] = []
    tasks = 0
    for host, request in asked:
        size = 1 + len(request.reports) + request.capacity.cpu_slots_free
        if turn and (len(turn) == HOSTS_IN_TURN or tasks + size > TASKS_IN_TURN):
            yield turn
            turn, tasks = [], 0
        turn.append((host, request))
        tasks += size
    if turn:
        yield turn
