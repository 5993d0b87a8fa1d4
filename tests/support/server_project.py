"""A project in a database, used without a network: hosts sync by calling the server's functions.

Time passes by moving stored times into the past, so a test of a lease of hours takes no time.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from axiom_protocol.manifest import Manifest, read_manifest
from axiom_protocol.messages import (
    Capacity,
    GpuFacts,
    Grant,
    HostFacts,
    InHand,
    Report,
    SyncAnswer,
    SyncRequest,
)
from axiom_server.config import Config
from axiom_server.maintenance import rounds
from axiom_server.publish import deploy
from axiom_server.publish.deploy import Deployed, Order
from axiom_server.review.log import SessionLog
from axiom_server.review.review import review
from axiom_server.store import experiments, hosts, standing, users
from axiom_server.store.database import Connection
from axiom_server.sync.catalogue import Catalogue
from axiom_server.sync.transaction import answer_sync
from tests.support.cluster import transaction
from tests.support.kept_connections import kept_async_connection, kept_connection

EXPERIMENTS = Path(__file__).parents[1] / "fixtures" / "experiments"
GIB = 1 << 30

#: Every column that holds a point in time.
TIMES = {
    "hosts": ("created_at", "last_seen_at", "average_at"),
    "users": ("average_at", "created_at", "returned_at"),
    "tasks": ("granted_at", "deadline_at", "ended_at"),
    "queue": ("release_at",),
    "comparisons": ("wanted_at",),
    "mismatches": ("at",),
}


@dataclass
class ServerProject:
    """The server's side of a project."""

    conninfo: str
    config: Config = field(default_factory=Config)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def publish(self, name: str = "short_walk", /, **changes: Any) -> Manifest:
        """Record a fixture experiment (signing is tested elsewhere)."""
        manifest = read_manifest((EXPERIMENTS / f"{name}.py").read_text())
        manifest = msgspec.structs.replace(manifest, **changes)

        async def work(connection: Connection) -> None:
            await experiments.record_version(connection, manifest, "0" * 64, None)

        transaction(self.conninfo, work)
        return manifest

    def deploy(self, *names: str, **order: Any) -> Deployed:
        """As the command does."""
        return transaction(
            self.conninfo,
            lambda c: deploy.execute_order(
                c, Order(names=names, **order), self.config.deploy, self.config.standing
            ),
        )

    def host(
        self, user: str = "", cores: int = 4, gpus: int = 0, *, vouched: bool = True,
        trusted: bool = False, gpu_cohort: int = 0,
    ) -> Host:  # fmt: skip
        """Enrol a host of a user, who is created if new and, by default, vouched for by staff."""
        number = next(self._numbers)
        facts = HostFacts(
            name=f"host{number}", os="linux", architecture="x86_64", cpu_cores=cores,
            memory_bytes=cores * 4 * GIB, disk_free_bytes=100 * GIB,
            gpus=[GpuFacts(uuid=str(i), name="gpu", memory_bytes=GIB) for i in range(gpus)],
            environments=["numpy", "torch"], gpu_cohort=gpu_cohort,
        )  # fmt: skip
        token = f"token{number}".encode()
        owner = user or f"user{number}"

        async def work(connection: Connection) -> int:
            await users.ensure(connection, [owner])
            ids = await users.ensure(connection, [owner])
            await standing.vouch(connection, owner, vouched)
            host_id = await hosts.enrol(connection, ids[owner], facts, token)
            if trusted:
                await standing.set_trusted(connection, host_id, True)
            return host_id

        host_id = transaction(self.conninfo, work)
        return Host(self, host_id, token, cores, gpus)

    def review(self) -> SessionLog:
        """As the command does."""
        return transaction(self.conninfo, lambda c: review(c, self.config))

    def round(self) -> None:
        """One round of the periodic work."""

        async def inside() -> None:
            connection = await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True)
            async with connection:
                assert await rounds.run_round(connection, self.config)

        asyncio.run(inside())

    def later(self, seconds: float) -> None:
        """Let this time pass."""
        with kept_connection(self.conninfo) as connection:
            for table, columns in TIMES.items():
                moved = ", ".join(f"{c} = {c} - %(s)s * interval '1 second'" for c in columns)
                connection.execute(f"UPDATE {table} SET {moved}", {"s": seconds})

    def value(self, query: str, *values: Any) -> Any:
        """The first column of the first row."""
        with kept_connection(self.conninfo) as connection:
            row = connection.execute(query, values).fetchone()
            return row[0] if row else None

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows."""
        with kept_connection(self.conninfo) as connection:
            return connection.execute(query, values).fetchall()

    def execute(self, query: str, *values: Any) -> None:
        """Change the database directly."""
        with kept_connection(self.conninfo) as connection:
            connection.execute(query, values)

    def sync(self, token: bytes, request: SyncRequest) -> SyncAnswer:
        """One sync, as in a serving process that has just started."""

        async def inside() -> SyncAnswer:
            catalogue = Catalogue()
            async with kept_async_connection(self.conninfo) as connection:
                await catalogue.refresh(connection)
                return await answer_sync(connection, catalogue, self.config, token, request)

        return asyncio.run(inside())


@dataclass
class Host:
    """The volunteer's side: it keeps what it was granted until it reports it."""

    project: ServerProject
    host_id: int
    token: bytes
    cores: int
    gpus: int
    held: dict[int, Grant] = field(default_factory=dict)
    last_request: str = ""

    def sync(
        self, reports: list[Report] | None = None, *, cpu: int | None = None, request_id: str = "",
        forget: bool = False, **more: Any,
    ) -> SyncAnswer:  # fmt: skip
        """Report, say what is in hand (nothing, with ``forget``), ask for ``cpu`` more tasks."""
        reports = reports or []
        reported = {report.task_id for report in reports}
        left = {} if forget else {t: g for t, g in self.held.items() if t not in reported}
        busy = {d: sum(g.device == d for g in left.values()) for d in ("cpu", "gpu")}
        self.last_request = request_id or f"request-{next(self.project._numbers):08d}"
        request = SyncRequest(
            request_id=self.last_request,
            capacity=Capacity(
                cpu_slots=self.cores, gpu_slots=self.gpus, memory_free_bytes=64 * GIB,
                cpu_slots_free=self.cores - busy["cpu"] if cpu is None else cpu,
                gpu_slots_free=self.gpus - busy["gpu"], disk_free_bytes=GIB,
                buffer_seconds=more.pop("buffer_seconds", 0.0),
            ),
            in_hand=[InHand(task_id=task_id, state="running") for task_id in left],
            reports=reports,
            **more,
        )  # fmt: skip
        answer = self.project.sync(self.token, request)
        self.held = left | {grant.task_id: grant for grant in answer.grants}
        for task_id in answer.cancelled:
            self.held.pop(task_id, None)
        return answer

    def success(self, grant: Grant, seconds: float = 1.0, **result: Any) -> Report:
        """An honest report of a short walk: the number depends on the seed alone."""
        numbers = {"valid": 1, "configs_done": 3, "exponent": 0.5 + grant.seed * 1e-4, **result}
        return Report(
            task_id=grant.task_id, outcome="success", elapsed_seconds=seconds,
            cpu_seconds=seconds * 0.9, result=numbers,
        )  # fmt: skip

    def failure(self, grant: Grant, seconds: float = 1.0) -> Report:
        """The task ended with an error."""
        return Report(
            task_id=grant.task_id, outcome="failed", elapsed_seconds=seconds, cpu_seconds=seconds,
            message="ValueError: it broke",
        )  # fmt: skip

    def succeed_all(self, seconds: float = 1.0, **more: Any) -> SyncAnswer:
        """Report everything in hand as done."""
        return self.sync([self.success(g, seconds) for g in self.held.values()], **more)
