"""``python -m tests.fleet.attack``: fleets under attack, and the table of docs/security.md.

Each scenario runs for some days on the real sync, maintenance rounds and reviews (simulation.py).
Honest hosts return true numbers; false numbers of attackers are larger, so that every false result
can be counted, whatever the server decides about it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg.conninfo import make_conninfo

from axiom_protocol.manifest import Criterion, Finding
from axiom_server.config import Config, DeployConfig, ServeConfig
from axiom_server.publish.deploy import Order, execute_order
from axiom_server.review.review import review
from axiom_server.store import experiments, hosts, standing, users
from axiom_server.store.database import Connection
from axiom_server.sync.catalogue import Catalogue
from tests.fleet.attackers import KINDS, LIE_LOW, attackers
from tests.fleet.hosts import DAY, HOUR, SimulatedHost
from tests.fleet.simulation import Simulation, host_facts, manifests
from tests.support.cluster import cluster

LIBRARY = {"catapult": ("numpy", 4.0), "rank": ("numpy", 8.0)}
HONEST = ("steady", "steady", "steady", "slow", "away_at_night", "restarts", "forgets")
SIZES = (2, 4, 4, 8, 8, 16)  # cores
CONFIG = Config(
    serve=ServeConfig(sync_seconds=HOUR, idle_sync_seconds=HOUR, round_seconds=1800.0),
    deploy=DeployConfig(live_minutes=180.0),
)
#: True numbers lie between 0.3 and 0.7, false ones above 0.75: to change its verdict, many false
#: ones are needed.
FINDING = Finding(
    name="below", claim="The number is small", field="exponent", criterion=Criterion(below=0.6),
    min_share=0.5,
)  # fmt: skip
OLD_DAYS = 90.0
LOOK_EVERY = DAY / 2


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """``honest`` volunteers, who are new or old, and attackers by kind, who are always new.

    anchors  number of trusted hosts of staff, each with eight cores
    """

    honest: int
    attack: Mapping[str, int]
    old: bool = False
    anchors: int = 0
    days: float = 8.0
    cores_max: int = 16

    @property
    def name(self) -> str:
        """As in the table."""
        kinds = ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in self.attack.items())
        age = "old" if self.old else "young"
        staff = f", {self.anchors} of staff's" if self.anchors else ""
        return f"{self.honest} {age}{staff} | {kinds.replace('_', '-')}"


@dataclass(kw_only=True)
class Figures:
    """The outcome of an attack. ``worst``: the largest share of false results at any time."""

    scenario: Scenario
    returned: int = 0  # false results
    accepted: int = 0  # ... that count as validated in the end
    validated: int = 0
    waiting: int = 0  # results that are not confirmed yet
    worst: float = 0.0
    honest_quarantined: int = 0
    honest_refuted: int = 0  # results of honest hosts
    attackers_quarantined: int = 0
    credit_share: float = 0.0
    overhead: float = 0.0
    rejected: list[str] = field(default_factory=list)  # findings, at any review
    stopped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def accepted_share(self) -> float:
        """Of the false results that were returned."""
        return self.accepted / max(1, self.returned)

    def line(self) -> str:
        """A row of the table."""
        total = sum(self.scenario.attack.values())
        return (
            f"| {self.scenario.name} | {self.returned:,} | {self.accepted_share:.1%} "
            f"| {self.worst:.1%} | {self.honest_quarantined} | {self.honest_refuted} "
            f"| {self.attackers_quarantined} of {total} | {self.credit_share:.1%} "
            f"| {self.overhead:.0%} | {len(self.rejected)} |"
        )


HEAD = (
    "| honest | attackers | false results | accepted in the end | worst share of what counts "
    "| honest hosts quarantined | honest results refuted | attackers quarantined "
    "| attackers' credit | replication | verdicts turned |\n" + "|---" * 11 + "|"
)


@dataclass(kw_only=True)
class AttackSimulation(Simulation):
    """A fleet under attack."""

    scenario: Scenario
    figures: Figures = field(init=False)
    staff_hosts: list[SimulatedHost] = field(init=False)
    attackers: list[SimulatedHost] = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.days, self.config, self.library = self.scenario.days, CONFIG, LIBRARY
        self.tick = 1800.0
        honest = [self._volunteer(n, HONEST[n % len(HONEST)]) for n in range(self.scenario.honest)]
        self.staff_hosts = [self._volunteer(10_000 + n, "steady") for n in range(self.anchors)]
        self.attackers = [
            host
            for kind, n in self.scenario.attack.items()
            for host in attackers(kind, n, self.rng)
        ]
        self.hosts = [*honest, *self.staff_hosts, *self.attackers]
        self.figures = Figures(scenario=self.scenario)

    @property
    def anchors(self) -> int:
        """Staff's hosts."""
        return self.scenario.anchors

    def _volunteer(self, number: int, kind: str) -> SimulatedHost:
        own = random.Random(self.rng.random())
        cores = min(self.scenario.cores_max, SIZES[number % len(SIZES)])
        return SimulatedHost(
            name=f"host{number:05d}", token=f"token{number}".encode(), user=f"user{number}",
            kind=kind, slots={"cpu": cores, "gpu": 0}, rng=own, due=own.uniform(0.0, HOUR),
            pace=own.uniform(2.0, 4.0) if kind == "slow" else own.lognormvariate(0.1, 0.3),
            turning_at=DAY * own.uniform(0.2, 0.8) * self.days,
            buffer_seconds=own.choice((0.0, 2 * HOUR)),
        )  # fmt: skip

    async def attack(self) -> Figures:
        """Run the simulation."""
        began = time.perf_counter()
        async with self._connection() as connection:
            await self._prepare(connection)
            catalogue = Catalogue(clock=lambda: self.now)
            for tick in range(1, round(self.days * DAY / self.tick) + 1):
                await self._set_clock(connection, tick * self.tick)
                await self._tick(connection, catalogue)
                if self.now % LOOK_EVERY < self.tick:
                    await self._count(connection)
            await self._finish(connection)
        self.figures.seconds = time.perf_counter() - began
        return self.figures

    async def _prepare(self, connection: Connection) -> None:
        async with connection.transaction():
            for manifest in manifests(self.library):
                sought = msgspec.structs.replace(manifest, findings=[FINDING])
                await experiments.record_version(connection, sought, "0" * 64, None)
            ids = await users.ensure(connection, sorted({h.user for h in self.hosts}))
            for host in self.hosts:
                host.host_id = await hosts.enrol(
                    connection, ids[host.user], host_facts(host), host.token
                )
            for host in self.staff_hosts:
                await standing.set_trusted(connection, host.host_id, True)
            if self.scenario.old:
                await self._make_old(connection)
            slots = sum(h.slots["cpu"] for h in self.hosts if h not in self.attackers)
            hours = sum(h for _, h in LIBRARY.values()) / len(LIBRARY)
            count = round(slots * self.days * 24 / hours)
            order = Order(names=list(LIBRARY), count=count)
            await execute_order(connection, order, CONFIG.deploy, CONFIG.standing)

    async def _make_old(self, connection: Connection) -> None:
        """Give honest hosts the record of some months."""
        known = [h.host_id for h in self.hosts if h not in self.attackers]
        await connection.execute(
            "UPDATE hosts SET agreements = 200 WHERE host_id = ANY(%s)", (known,)
        )
        await connection.execute(
            """UPDATE users SET validated = 500, agreeing = 10,
                   created_at = created_at - %s * interval '1 day'
               WHERE user_id IN (SELECT user_id FROM hosts WHERE host_id = ANY(%s))""",
            (OLD_DAYS, known),
        )

    async def _count(self, connection: Connection) -> None:
        """Count the false results among those that count now."""
        false, every, waiting = await self._row(
            connection,
            """SELECT count(*) FILTER (WHERE validated AND (result ->> 'exponent')::float8 >= %s),
                      count(*) FILTER (WHERE validated), count(*) FILTER (WHERE NOT validated)
               FROM results""",
            LIE_LOW,
        )
        self.figures.accepted, self.figures.validated = false, every
        self.figures.waiting = waiting
        if every >= 100:  # of fewer, a share says nothing, and there is no verdict
            self.figures.worst = max(self.figures.worst, false / every)

    async def _finish(self, connection: Connection) -> None:
        await self._set_clock(connection, self.now + self.tick)
        async with connection.transaction():
            await review(connection, CONFIG)
        await self._count(connection)
        figures, evil = self.figures, [h.host_id for h in self.attackers]
        figures.returned = sum(h.lied for h in self.attackers)
        figures.honest_quarantined, figures.attackers_quarantined = await self._row(
            connection,
            """SELECT count(*) FILTER (WHERE NOT host_id = ANY(%s)),
                      count(*) FILTER (WHERE host_id = ANY(%s))
               FROM hosts WHERE state = 'quarantined'""",
            evil, evil,
        )  # fmt: skip
        (figures.honest_refuted,) = await self._row(
            connection, "SELECT count(*) FROM mismatches WHERE NOT host_id = ANY(%s)", evil
        )
        (figures.credit_share,) = await self._row(
            connection,
            """SELECT COALESCE((sum(amount) FILTER (WHERE host_id = ANY(%s)) / sum(amount))::float8,
                               0) FROM credit""",
            evil,
        )
        (figures.overhead,) = await self._row(
            connection,
            """SELECT count(*) FILTER (WHERE purpose <> 'first')::float8
                      / GREATEST(1, count(*) FILTER (WHERE purpose = 'first'))
               FROM tasks WHERE state IN ('reported', 'reviewed')""",
        )
        cursor = await connection.execute("SELECT record -> 'findings' FROM sessions ORDER BY 1")
        verdicts = [line for (found,) in await cursor.fetchall() for line in found or []]
        figures.rejected = [str(v.get("name")) for v in verdicts if v.get("verdict") == "rejected"]
        cursor = await connection.execute(
            "SELECT state_reason FROM versions WHERE state = 'stopped'"
        )
        figures.stopped = [reason for (reason,) in await cursor.fetchall()]

    async def _row(self, connection: Connection, query: str, *values: Any) -> tuple[Any, ...]:
        row = await (await connection.execute(query, values or None)).fetchone()
        assert row is not None
        return row


def play(conninfo: str, scenario: Scenario, seed: int = 1) -> Figures:
    """Run one scenario in a new database of the cluster."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS attack WITH (FORCE)")
        connection.execute("CREATE DATABASE attack")
    simulation = AttackSimulation(
        conninfo=make_conninfo(conninfo, dbname="attack"), scenario=scenario, seed=seed
    )
    return asyncio.run(simulation.attack())


def scenarios(honest: int) -> Iterator[Scenario]:
    """The scenarios of the table for a number of honest hosts: each kind of attacker, then many.

    With few honest hosts each kind attacks alone; with more, all kinds attack together.
    """
    few, kinds = max(3, honest * 3 // 20), KINDS
    days = {20: 8.0, 100: 7.0}.get(honest, 5.5)
    cores = {20: 16, 100: 4}.get(honest, 2)
    attacks: Sequence[Mapping[str, int]] = (
        [{kind: few} for kind in kinds] if honest <= 20 else [dict.fromkeys(kinds, few // 6)]
    )
    for old in (False, True):
        for attack in attacks:
            yield Scenario(honest=honest, attack=attack, old=old, days=days, cores_max=cores)
        yield Scenario(
            honest=honest, attack={"sybil": 2 * honest}, old=old,
            anchors=0 if old else max(1, honest // 50), days=min(days, 4.0), cores_max=cores,
        )  # fmt: skip


@contextmanager
def _cluster() -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(prefix="axiom-attack-") as folder,
        cluster(Path(folder)) as conninfo,
    ):
        yield conninfo


def main() -> None:
    """Play all scenarios of one size, and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=[20, 100, 1000])
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(HEAD, flush=True)
    with _cluster() as conninfo:
        for honest in given.hosts:
            for scenario in scenarios(honest):
                figures = play(conninfo, scenario, given.seed)
                print(figures.line(), flush=True)
                if figures.stopped:
                    print(f"experiments stopped: {figures.stopped}", flush=True)


if __name__ == "__main__":
    main()
