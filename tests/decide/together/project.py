"""The server's decisions with a store in memory, whose transactions are atomic like SQL's.

Evaluating reports, ending leases and choosing work is the server's own code. This module only
replaces its tables and statements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from axiom_protocol.messages import Grant, SyncAnswer, SyncRequest
from axiom_server.decide import credit, lease
from axiom_server.decide.credit import CreditPolicy, Earning
from axiom_server.decide.lease import HostView, LeasePolicy
from axiom_server.decide.replicate import ReplicationPolicy
from axiom_server.decide.standing import StandingPolicy
from axiom_server.store.experiments import ParametersRow, VersionRow
from axiom_server.store.reported_tasks import TaskRow
from axiom_server.store.syncing_hosts import HostRow
from axiom_server.sync.catalogue import Catalogue, pools_of
from axiom_server.sync.reports import HostSync, SyncChanges, evaluate_sync
from tests.decide.together.host import CORES, VERSIONS
from tests.support.world import manifest

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
SHAS = dict(enumerate(VERSIONS, 1))
BUDGET_SECONDS = 60.0
ATTEMPTS_MAX = 6  # of a workunit that always fails
SYNC_SECONDS = 60.0


@dataclass
class Workunit:
    """A workunit. ``waits``: number of the attempt for which it is queued; 0: not queued."""

    workunit_id: int
    version_id: int
    waits: int = 1


@dataclass
class Task:
    """A row of tasks. ``ended``: outcome and refusal of its report."""

    row: TaskRow
    ended: tuple[str, str] | None = None
    elapsed_seconds: float = 0.0


@dataclass
class Project:
    """One project. ``holds(host, task)``: whether a host really will still report a task."""

    holds: Callable[[int, int], bool]
    now: float = 0.0
    hosts: dict[int, HostRow] = field(default_factory=dict)
    workunits: dict[int, Workunit] = field(default_factory=dict)
    tasks: dict[int, Task] = field(default_factory=dict)
    ledger: dict[int, Decimal] = field(default_factory=dict)
    totals: dict[int, Decimal] = field(default_factory=dict)
    reviewed: set[int] = field(default_factory=set)
    catalogue: Catalogue = field(default_factory=Catalogue)

    def __post_init__(self) -> None:
        for version_id, sha256 in SHAS.items():
            self.catalogue.versions[version_id] = VersionRow(
                version_id, version_id, "walk", VERSIONS[sha256], sha256, "active", "", 1.0,
                EPOCH, manifest(version=VERSIONS[sha256]), None,
            )  # fmt: skip
            self.catalogue.parameters[version_id] = ParametersRow(version_id, {}, BUDGET_SECONDS)

    @property
    def at(self) -> datetime:
        return EPOCH + timedelta(seconds=self.now)

    def enrol(self, host_id: int) -> None:
        """Enrol a host with its own user."""
        self.hosts[host_id] = HostRow(
            token=b"%d" % host_id, host_id=host_id, user_id=host_id, state="active",
            state_reason="", cpu_cores=CORES, gpus=0, memory_bytes=64 << 30,
            environments=["numpy"], gpu_cohort=0, last_seen_at=None, last_request="",
            allowance=0.0, failing=0,
            agreements=0, pace=1.0, host_total=Decimal(0), user_total=Decimal(0),
            user_average=0.0, user_average_at=None, pending=0, trusted=False, vouched=True,
            validated=0, returned=0, unconfirmed=0, age_seconds=0.0, since_return=None, now=self.at,
        )  # fmt: skip

    def deploy(self, version_id: int, count: int) -> None:
        """New workunits wait."""
        if self.catalogue.versions[version_id].state != "active":
            return
        for _ in range(count):
            number = len(self.workunits) + 1
            self.workunits[number] = Workunit(number, version_id)

    # --- one sync, one transaction ----------------------------------------------------------------

    def sync(self, host_id: int, request: SyncRequest) -> SyncAnswer:
        """Run one sync as a transaction; returns the answer."""
        host = self.hosts[host_id]._replace(now=self.at)
        sync = HostSync(host=host, request=request, tasks=self._tasks_of(host_id, request))
        changes = evaluate_sync(self.catalogue, ReplicationPolicy(), StandingPolicy(), sync)
        self._write(host, changes)
        repeated = not sync.is_new
        grants = self._again(changes, request) if repeated else self._grant(sync, changes)
        self.hosts[host_id] = host._replace(
            last_seen_at=self.at, failing=changes.failing, pace=changes.pace,
            last_request=host.last_request if sync.is_outdated else request.request_id,
            allowance=changes.allowance, pending=host.pending + len(changes.ended),
        )  # fmt: skip
        return SyncAnswer(
            request_id=request.request_id, grants=grants, acknowledged=changes.acknowledged,
            cancelled=changes.cancelled, next_sync_seconds=SYNC_SECONDS,
        )  # fmt: skip

    def _tasks_of(self, host_id: int, request: SyncRequest) -> dict[int, TaskRow]:
        named = {report.task_id for report in request.reports}
        return {
            i: task.row
            for i, task in self.tasks.items()
            if task.row.host_id == host_id and (task.row.state == "leased" or i in named)
        }

    def _write(self, host: HostRow, changes: SyncChanges) -> None:
        for task, end in changes.ended:
            known = self.tasks[task.task_id]
            known.row = known.row._replace(state="reported", refusal=end.refusal)
            known.ended = (end.outcome, end.refusal)
            known.elapsed_seconds = end.elapsed_seconds
        for task in changes.lost:
            self._lose(host, task)
        for task, attempt in changes.requeued:
            self._requeue(task, attempt)
        for workunit_id in [task.workunit_id for task in changes.late]:
            self.workunits[workunit_id].waits = 0

    def _lose(self, host: HostRow, task: TaskRow) -> None:
        meant = host.state == "quarantined" or self._stopped(task.version_id)
        assert meant or not self.holds(host.host_id, task.task_id), (
            f"task {task.task_id} is taken from host {host.host_id}, which has it"
        )
        self.tasks[task.task_id].row = task._replace(state="lost")
        self._requeue(task, task.attempt)

    def _requeue(self, task: TaskRow, attempt: int) -> None:
        assert attempt <= ATTEMPTS_MAX, "tried without end"
        unit = self.workunits[task.workunit_id]
        if not self._stopped(task.version_id) and not unit.waits:
            unit.waits = attempt

    def _stopped(self, version_id: int) -> bool:
        return self.catalogue.versions[version_id].state != "active"

    # --- grants -----------------------------------------------------------------------------------

    def _again(self, changes: SyncChanges, request: SyncRequest) -> list[Grant]:
        mine = [task for task in changes.kept if task.granted_by == request.request_id]
        return [self._to_grant(task) for task in mine]

    def _grant(self, sync: HostSync, changes: SyncChanges) -> list[Grant]:
        host, request = sync.host, sync.request
        view = HostView(
            cpu_cores=host.cpu_cores, gpus=0, memory_bytes=host.memory_bytes,
            environments=frozenset(host.environments), pace=changes.pace, failing=changes.failing,
            leased={"cpu": len(changes.kept), "gpu": 0},
            quarantined="by staff" if host.state == "quarantined" else "",
        )  # fmt: skip
        space = lease.room(
            LeasePolicy(), view, request.capacity, request.draining, BUDGET_SECONDS * changes.pace
        )
        offered = [  # the server finds out which are empty, and asks the others
            p
            for v in self.catalogue.versions.values()
            for p in pools_of(v)
            if any(u.waits and u.version_id == v.version_id for u in self.workunits.values())
        ]
        made = []
        for pool, count in lease.pool_shares(offered, view, space, {}, ()):
            waiting = [
                u for u in self.workunits.values() if u.waits and u.version_id == pool.version_id
            ]
            for chosen in lease.choose([("cpu", 1)] * len(waiting[:count]), space):
                made.append(self._lease(host, waiting[chosen], request.request_id))
        return made

    def _lease(self, host: HostRow, unit: Workunit, request_id: str) -> Grant:
        held = [t for t in self.tasks.values() if t.row.workunit_id == unit.workunit_id]
        assert all(t.row.state != "leased" for t in held), "leased twice at once"
        task_id = len(self.tasks) + 1
        row = TaskRow(
            task_id=task_id, host_id=host.host_id, workunit_id=unit.workunit_id,
            version_id=unit.version_id, parameters_id=unit.version_id, seed=unit.workunit_id,
            device="cpu", purpose="first", attempt=unit.waits, state="leased",
            granted_at=self.at, deadline_at=self.at + timedelta(days=30), granted_by=request_id,
            refusal="",
        )  # fmt: skip
        unit.waits = 0
        self.tasks[task_id] = Task(row)
        return self._to_grant(row)

    def _to_grant(self, row: TaskRow) -> Grant:
        version = self.catalogue.versions[row.version_id]
        return Grant(
            task_id=row.task_id, experiment=version.name, version=version.version,
            sha256=version.sha256, parameters={}, seed=row.seed, budget_seconds=BUDGET_SECONDS,
            lease_seconds=(row.deadline_at - self.at).total_seconds(),
        )  # fmt: skip

    # --- staff ------------------------------------------------------------------------------------

    def set_host(self, host_id: int, state: str) -> None:
        """Quarantine or release."""
        self.hosts[host_id] = self.hosts[host_id]._replace(state=state, state_reason=state)

    def stop_version(self, version_id: int) -> None:
        """As the watchdog does; what waits leaves the queue."""
        known = self.catalogue.versions
        known[version_id] = known[version_id]._replace(state="stopped")
        for unit in self.workunits.values():
            if unit.version_id == version_id:
                unit.waits = 0

    def resume_version(self, version_id: int) -> None:
        """What it left unfinished waits again."""
        known = self.catalogue.versions
        known[version_id] = known[version_id]._replace(state="active")
        for unit in self.workunits.values():
            tasks = [t for t in self.tasks.values() if t.row.workunit_id == unit.workunit_id]
            done = any(t.row.state == "leased" or t.ended == ("success", "") for t in tasks)
            if unit.version_id == version_id and not done and not unit.waits:
                unit.waits = 1

    def review(self) -> None:
        """Credit what was reported, each once."""
        good = [
            (i, t) for i, t in self.tasks.items()
            if t.row.state == "reported" and t.ended == ("success", "")
        ]  # fmt: skip
        for decision in credit.decide(
            CreditPolicy(),
            [Earning(task_id=i, user_id=t.row.host_id, host_id=t.row.host_id,
                     elapsed_seconds=t.elapsed_seconds, cpu_seconds=1.0) for i, t in good],
        ):  # fmt: skip
            assert decision.task_id not in self.ledger, "credited twice"
            self.ledger[decision.task_id] = decision.amount
            host_id = self.tasks[decision.task_id].row.host_id
            self.totals[host_id] = self.totals.get(host_id, Decimal(0)) + decision.amount
        for task in self.tasks.values():
            if task.row.state == "reported":
                task.row = task.row._replace(state="reviewed")
