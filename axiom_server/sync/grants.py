"""Work for the hosts of one transaction: SQL offers, `decide/lease` chooses, the rows are leased.

What was made for a host comes first, then the pools: every host's share of each pool is asked for
in one statement and dealt out. Pools that had less than was asked are empty for a moment, and
their share goes to the others in the next pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from axiom_protocol.messages import Grant
from axiom_server.config import Config
from axiom_server.decide import lease
from axiom_server.decide.lease import PoolView, Room
from axiom_server.store import sync as store
from axiom_server.store.database import Connection
from axiom_server.store.sync import CandidateRow, HostRow, Lease, TaskRow
from axiom_server.sync.catalogue import Catalogue
from axiom_server.sync.reports import Intake, Visit

PASSES_MAX = 4  # over the pools

NOTHING_FITS = "no work is waiting for a host like this"


@dataclass(kw_only=True)
class _Seeker:
    """A host that is being given work. ``room`` shrinks as ``chosen`` and ``grants`` grow."""

    host: HostRow
    request_id: str
    view: lease.HostView
    typical_seconds: float
    room: Room
    chosen: list[CandidateRow] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)

    def takes(self, catalogue: Catalogue, offered: Sequence[CandidateRow]) -> int:
        """Choose of what is offered whatever fits; returns how many."""
        sizes = [(c.device, _size(catalogue, c.version_id, c.device)) for c in offered]
        picked = lease.choose(sizes, self.room)  # type: ignore[arg-type]
        used = {d: sum(sizes[i][1] for i in picked if sizes[i][0] == d) for d in ("cpu", "gpu")}
        self.room = replace(
            self.room, cpu=self.room.cpu - used["cpu"], gpu=self.room.gpu - used["gpu"],
            tasks=self.room.tasks - len(picked),
        )  # fmt: skip
        self.chosen += [offered[i] for i in picked]
        return len(picked)

    @property
    def hungry(self) -> bool:
        """Whether it has room for more."""
        return self.room.tasks > 0 and (self.room.cpu > 0 or self.room.gpu > 0)


async def grant_all(
    connection: Connection, catalogue: Catalogue, config: Config,
    visits: Sequence[tuple[Visit, Intake]], now: datetime,
) -> dict[int, tuple[list[Grant], str]]:  # fmt: skip
    """Offer work until every host's room is filled or the pools are empty.

    Returns grants, and why there are not more, by host.
    """
    seekers = await _seekers(connection, catalogue, config, visits)
    hungry = {s.host.host_id for s in seekers if s.hungry}
    await _offer_own(connection, catalogue, [s for s in seekers if s.hungry])
    for _ in range(PASSES_MAX):
        asked = await _offer_pools(connection, catalogue, [s for s in seekers if s.hungry])
        await _lease(connection, catalogue, config, [s for s in seekers if s.chosen], now)
        if not asked:
            break
    return {
        s.host.host_id: (
            # by task, as a repeated answer lists them
            sorted(s.grants, key=lambda grant: grant.task_id),
            s.room.reason or ("" if s.grants or s.host.host_id not in hungry else NOTHING_FITS),
        )
        for s in seekers
    }


async def _seekers(
    connection: Connection, catalogue: Catalogue, config: Config,
    visits: Sequence[tuple[Visit, Intake]],
) -> list[_Seeker]:  # fmt: skip
    promised: dict[int | None, int] = {}
    if config.lease.tasks_per_user:
        users = sorted({v.host.user_id for v, _ in visits if v.host.user_id is not None})
        promised |= await store.leased_by_users(connection, users)
    seekers = []
    for visit, intake in visits:
        user_id = visit.host.user_id
        view = _view(catalogue, visit, intake, promised.get(user_id, 0))
        typical = _typical_seconds(catalogue, view)
        request = visit.request
        room = lease.room(config.lease, view, request.capacity, request.draining, typical)
        if user_id is not None:
            promised[user_id] = promised.get(user_id, 0) + min(room.tasks, room.cpu + room.gpu)
        seekers.append(
            _Seeker(
                host=visit.host, request_id=request.request_id, view=view,
                typical_seconds=typical, room=room,
            )
        )  # fmt: skip
    return seekers


def _view(catalogue: Catalogue, visit: Visit, intake: Intake, user_leased: int) -> lease.HostView:
    host = visit.host
    return lease.HostView(
        cpu_cores=host.cpu_cores, gpus=host.gpus, memory_bytes=host.memory_bytes,
        environments=frozenset(host.environments), pace=intake.pace, failing=intake.failing,
        leased={d: _slots(catalogue, intake.kept, d) for d in ("cpu", "gpu")},
        user_leased=user_leased,
        quarantined=host.state_reason or "see its owner" if host.state == "quarantined" else "",
    )  # fmt: skip


async def _offer_own(
    connection: Connection, catalogue: Catalogue, seekers: Sequence[_Seeker]
) -> None:
    """Offer workunits made for these hosts."""
    wanted = [
        (s.host.host_id, device, most)
        for s in seekers
        for device, most in (("cpu", s.room.cpu), ("gpu", s.room.gpu))
        if most > 0
    ]
    if not wanted:
        return
    offered = await store.made_for(connection, wanted)
    await catalogue.know(connection, {c.version_id for c in offered})
    own = defaultdict[int | None, list[CandidateRow]](list)
    for candidate in offered:
        own[candidate.host_id].append(candidate)
    for seeker in seekers:
        seeker.takes(catalogue, own[seeker.host.host_id])


async def _offer_pools(
    connection: Connection, catalogue: Catalogue, seekers: Sequence[_Seeker]
) -> bool:
    """Offer each host its share of the pools; False when there was none to ask for."""
    shares = _shares(catalogue, seekers)
    if not shares:
        return False
    totals: dict[tuple[int, lease.Device], int] = {}
    for _, pool, count in shares:
        key = (pool.version_id, pool.device)
        totals[key] = totals.get(key, 0) + count
    floors = {key: catalogue.floor(key) for key in totals}
    offered = defaultdict[tuple[int, str], list[CandidateRow]](list)
    wanted = [(*key, floors[key], most) for key, most in totals.items()]
    for candidate in await store.from_pools(connection, wanted):
        offered[candidate.version_id, candidate.device].append(candidate)
    await catalogue.know(connection, {version_id for version_id, _ in offered})
    for key, most in totals.items():
        places = [candidate.queue_id for candidate in offered[key]]
        catalogue.found(key, floors[key], places, most)
    for seeker, pool, count in shares:
        waiting = offered[pool.version_id, pool.device]
        dealt, waiting[:count] = waiting[:count], []
        missed = count - seeker.takes(catalogue, dealt)
        catalogue.was_given((pool.version_id, pool.device), -missed)
    return True


def _shares(
    catalogue: Catalogue, seekers: Sequence[_Seeker]
) -> list[tuple[_Seeker, PoolView, int]]:
    """How many workunits each host asks of each pool, counted as given until it shows otherwise."""
    empty = catalogue.empty()
    shares = []
    for seeker in seekers:
        asked = lease.quotas(catalogue.pools, seeker.view, seeker.room, catalogue.given, empty)
        for pool, count in asked:
            catalogue.was_given((pool.version_id, pool.device), count)
            shares.append((seeker, pool, count))
    return shares


async def _lease(
    connection: Connection, catalogue: Catalogue, config: Config, seekers: Sequence[_Seeker],
    now: datetime,
) -> None:  # fmt: skip
    """Lease what the hosts chose."""
    if not seekers:
        return
    await catalogue.know_parameters(
        connection, {c.parameters_id for s in seekers for c in s.chosen}
    )
    chosen = [(s, c, _lease_seconds(catalogue, config, s, c)) for s in seekers for c in s.chosen]
    leases = [
        Lease(
            queue_id=candidate.queue_id,
            experiment_id=catalogue.versions[candidate.version_id].experiment_id,
            host_id=seeker.host.host_id,
            user_id=seeker.host.user_id,
            request=seeker.request_id,
            seconds=seconds,
        )
        for seeker, candidate, seconds in chosen
    ]
    tasks = await store.grant(connection, leases, now)
    for seeker, candidate, seconds in chosen:
        task_id = tasks[candidate.workunit_id, candidate.purpose]
        seeker.grants.append(to_grant(catalogue, task_id, candidate, seconds))
    for seeker in seekers:
        seeker.chosen = []


def _lease_seconds(
    catalogue: Catalogue, config: Config, seeker: _Seeker, candidate: CandidateRow
) -> float:
    host = seeker.host
    ahead = seeker.typical_seconds * len(seeker.chosen) / max(1, host.cpu_cores + host.gpus)
    budget = catalogue.parameters[candidate.parameters_id].budget_seconds
    return lease.lease_seconds(config.lease, budget, host.pace, ahead)


def to_grant(
    catalogue: Catalogue, task_id: int, source: CandidateRow | TaskRow, seconds: float
) -> Grant:
    """A lease as it is sent. The catalogue knows its parameters."""
    version = catalogue.versions[source.version_id]
    parameters = catalogue.parameters[source.parameters_id]
    return Grant(
        task_id=task_id, experiment=version.name, version=version.version, sha256=version.sha256,
        parameters=parameters.parameters, seed=source.seed,
        budget_seconds=parameters.budget_seconds, lease_seconds=seconds,
        device="gpu" if source.device == "gpu" else "cpu",
    )  # fmt: skip


def _size(catalogue: Catalogue, version_id: int, device: str) -> int:
    resources = catalogue.versions[version_id].manifest.resources
    return max(1, resources.gpus) if device == "gpu" else resources.cpu_cores


def _slots(catalogue: Catalogue, tasks: Sequence[TaskRow], device: str) -> int:
    return sum(_size(catalogue, t.version_id, device) for t in tasks if t.device == device)


def _typical_seconds(catalogue: Catalogue, view: lease.HostView) -> float:
    """A typical run on this host, by which its buffer of seconds becomes a number of tasks."""
    expected = [pool.expected_seconds for pool in catalogue.pools if lease.fits(pool, view)]
    return view.pace * sum(expected) / len(expected) if expected else 1.0
