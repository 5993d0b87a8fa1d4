"""Grant work to the hosts of one transaction.

SQL locks candidates, `decide/lease` chooses among them, and the chosen ones are leased. Workunits
reserved for a host come first, then the pools of workunits for any host. One statement fetches the
shares of all hosts from all pools. A pool that had too few for a host is skipped in its next
passes, in which the other pools get that share, so that the last pool is asked too. When a host had
lost or failed what it was offered, the next pass looks further on in the same pool.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from axiom_protocol.messages import Grant
from axiom_server.config import Config
from axiom_server.decide import lease
from axiom_server.decide.lease import PoolView, Room
from axiom_server.decide.standing import StandingPolicy, tasks_in_hand
from axiom_server.store import leases
from axiom_server.store.database import Connection
from axiom_server.store.leases import CandidateRow, Lease
from axiom_server.store.reported_tasks import TaskRow
from axiom_server.store.syncing_hosts import HostRow
from axiom_server.sync.catalogue import Catalogue
from axiom_server.sync.reports import HostSync, SyncChanges

SPARES = 4  # further candidates, to replace those that a host had before and did not complete
SLOTS_LEFT = 1e-6  # smaller remainders of a slot are rounding errors
NOTHING_FITS = "no work is waiting for a host like this"


@dataclass(kw_only=True)
class _Recipient:
    """A host that gets work. ``room`` shrinks as ``chosen`` and ``grants`` grow.

    ``exhausted``: pools that had less for this host than it was to get: (version, device).
    """

    host: HostRow
    request_id: str
    view: lease.HostView
    mean_run_seconds: float
    room: Room
    chosen: list[CandidateRow] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    exhausted: set[tuple[int, str]] = field(default_factory=set)

    def accept_offers(self, catalogue: Catalogue, offered: Sequence[CandidateRow]) -> int:
        """Choose what fits of the offered workunits; returns how many."""
        together = self.view.gpu_cohort
        sizes = [(c.device, _size(catalogue, c.version_id, c.device, together)) for c in offered]
        picked = lease.choose(sizes, self.room)  # type: ignore[arg-type]
        used = {d: sum(sizes[i][1] for i in picked if sizes[i][0] == d) for d in ("cpu", "gpu")}
        self.room = replace(
            self.room, cpu=self.room.cpu - used["cpu"], gpu=self.room.gpu - used["gpu"],
            tasks=self.room.tasks - len(picked),
        )  # fmt: skip
        self.chosen += [offered[i] for i in picked]
        return len(picked)

    @property
    def has_room(self) -> bool:
        """Whether it can take more tasks."""
        return self.room.tasks > 0 and (self.room.cpu > SLOTS_LEFT or self.room.gpu > SLOTS_LEFT)


async def grant_work(
    connection: Connection, catalogue: Catalogue, config: Config,
    syncs: Sequence[tuple[HostSync, SyncChanges]], now: datetime,
) -> dict[int, tuple[list[Grant], str]]:  # fmt: skip
    """Grant work until every host is full or the pools are empty.

    Returns, by host, the grants and why there are not more.
    """
    recipients = await _recipients(connection, catalogue, config, syncs)
    with_room = {s.host.host_id for s in recipients if s.has_room}
    await _offer_reserved(connection, catalogue, [s for s in recipients if s.has_room])
    requested, further = True, dict[tuple[int, str], int]()
    while requested:  # each pass grants a task, exhausts a pool or looks further on in it
        requested = await _offer_pools(
            connection, catalogue, [s for s in recipients if s.has_room], further
        )
        await _lease(connection, catalogue, config, [s for s in recipients if s.chosen], now)
    return {
        s.host.host_id: (
            # in the order of a repeated answer
            sorted(s.grants, key=lambda grant: grant.task_id),
            s.room.reason or ("" if s.grants or s.host.host_id not in with_room else NOTHING_FITS),
        )
        for s in recipients
    }


async def _recipients(
    connection: Connection, catalogue: Catalogue, config: Config,
    syncs: Sequence[tuple[HostSync, SyncChanges]],
) -> list[_Recipient]:  # fmt: skip
    user_leased: dict[int | None, int] = {}
    quotas = {
        sync.host.user_id: quota
        for sync, changes in syncs
        if (quota := _quota(config.standing, sync, changes)) is not None
    }
    counted = {sync.host.user_id for sync, _ in syncs} if config.lease.tasks_per_user else quotas
    if users := sorted(user_id for user_id in counted if user_id is not None):
        user_leased |= await leases.leased_by_users(connection, users)
    recipients = []
    for sync, changes in syncs:
        user_id = sync.host.user_id
        view = _host_view(
            catalogue, sync, changes, user_leased.get(user_id, 0), quotas.get(user_id)
        )
        run_seconds = _mean_run_seconds(catalogue, view)
        request = sync.request
        room = lease.room(config.lease, view, request.capacity, request.draining, run_seconds)
        if user_id is not None:
            limit = math.ceil(room.cpu + room.gpu * view.gpu_cohort)
            user_leased[user_id] = user_leased.get(user_id, 0) + min(room.tasks, limit)
        recipients.append(
            _Recipient(
                host=sync.host, request_id=request.request_id, view=view,
                mean_run_seconds=run_seconds, room=room,
            )
        )  # fmt: skip
    return recipients


def _quota(policy: StandingPolicy, sync: HostSync, changes: SyncChanges) -> int | None:
    """Tasks that the host's account may hold, counting those that it has just given back."""
    earned = sync.host.standing
    if changes.given_back:
        returned = earned.returned + changes.given_back
        earned = replace(earned, returned=returned, since_return_seconds=0.0)
    return tasks_in_hand(policy, earned)


def _host_view(
    catalogue: Catalogue, sync: HostSync, changes: SyncChanges, user_leased: int,
    quota: int | None,
) -> lease.HostView:  # fmt: skip
    host = sync.host
    return lease.HostView(
        cpu_cores=host.cpu_cores, gpus=host.gpus, memory_bytes=host.memory_bytes,
        environments=frozenset(host.environments), pace=changes.pace, failing=changes.failing,
        leased={d: _slots(catalogue, changes.kept, d, host.gpu_cohort) for d in ("cpu", "gpu")},
        gpu_cohort=max(1, host.gpu_cohort),
        user_leased=user_leased, quota=quota,
        quarantined=host.state_reason or "see its owner" if host.state == "quarantined" else "",
    )  # fmt: skip


async def _offer_reserved(
    connection: Connection, catalogue: Catalogue, recipients: Sequence[_Recipient]
) -> None:
    """Offer the workunits that are reserved for these hosts."""
    wanted = [
        (s.host.host_id, device, limit)
        for s in recipients
        for device, limit in (
            ("cpu", math.ceil(s.room.cpu)),
            ("gpu", min(s.room.tasks, math.ceil(s.room.gpu * s.view.gpu_cohort))),
        )
        if limit > 0
    ]
    if not wanted:
        return
    offered = await leases.reserved_workunits(connection, wanted)
    await catalogue.load_versions(connection, {c.version_id for c in offered})
    reserved = defaultdict[int | None, list[CandidateRow]](list)
    for candidate in offered:
        reserved[candidate.host_id].append(candidate)
    for recipient in recipients:
        recipient.accept_offers(catalogue, reserved[recipient.host.host_id])


async def _offer_pools(
    connection: Connection, catalogue: Catalogue, recipients: Sequence[_Recipient],
    further: dict[tuple[int, str], int],
) -> bool:  # fmt: skip
    """Offer each host its share of the pools; False when no host has a share.

    further  places at which to look in pools whose earlier workunits a host did not complete
    """
    shares = _shares(catalogue, recipients)
    if not shares:
        return False
    page = await _look(connection, catalogue, _totals(shares), further)
    for recipient, pool, count in shares:
        key = pool.version_id, pool.device
        offers = _take(page.offered[key], recipient.host.host_id, count)
        declined = count - recipient.accept_offers(catalogue, offers)
        catalogue.record_granted(key, -declined)
        if len(offers) < count and key in page.ends:
            further[key] = page.ends[key]
        elif declined and key not in page.again:
            recipient.exhausted.add(key)
    return True


def _totals(
    shares: Sequence[tuple[_Recipient, PoolView, int]],
) -> dict[tuple[int, lease.Device], int]:
    totals: dict[tuple[int, lease.Device], int] = {}
    for _, pool, count in shares:
        key = (pool.version_id, pool.device)
        totals[key] = totals.get(key, 0) + count
    return totals


@dataclass(kw_only=True)
class _Page:
    """What one query found, by pool: (version, device).

    again  pools that may have more before the place where the query began
    ends   where to go on in pools that may have more behind the last place
    """

    offered: dict[tuple[int, str], list[CandidateRow]]
    again: set[tuple[int, str]] = field(default_factory=set)
    ends: dict[tuple[int, str], int] = field(default_factory=dict)


async def _look(
    connection: Connection, catalogue: Catalogue, totals: dict[tuple[int, lease.Device], int],
    further: dict[tuple[int, str], int],
) -> _Page:  # fmt: skip
    """Find so many workunits of each pool, and some spare ones."""
    starts = {key: further.get(key) or catalogue.scan_start(key) for key in totals}
    page = _Page(offered=defaultdict(list))
    wanted = [(*key, starts[key], limit + SPARES) for key, limit in totals.items()]
    for candidate in await leases.pool_workunits(connection, wanted):
        page.offered[candidate.version_id, candidate.device].append(candidate)
    await catalogue.load_versions(connection, {version_id for version_id, _ in page.offered})
    for key, limit in totals.items():
        places = [candidate.queue_id for candidate in page.offered[key]]
        if key not in further and catalogue.record_offers(key, starts[key], places[:limit], limit):
            page.again.add(key)
        if len(places) == limit + SPARES:
            page.ends[key] = max(places) + 1
    return page


def _take(waiting: list[CandidateRow], host_id: int, count: int) -> list[CandidateRow]:
    """Take the first ``count`` workunits, without those that this host has lost or failed."""
    taken = [c for c in waiting if host_id not in c.previous_hosts][:count]
    for candidate in taken:
        waiting.remove(candidate)
    return taken


def _shares(
    catalogue: Catalogue, recipients: Sequence[_Recipient]
) -> list[tuple[_Recipient, PoolView, int]]:
    """How many workunits each host should get from each pool. They are counted as granted."""
    empty = catalogue.empty_pools()
    shares = []
    for recipient in recipients:
        left_out = empty | recipient.exhausted
        requested = lease.pool_shares(
            catalogue.pools, recipient.view, recipient.room, catalogue.granted, left_out
        )
        for pool, count in requested:
            catalogue.record_granted((pool.version_id, pool.device), count)
            shares.append((recipient, pool, count))
    return shares


async def _lease(
    connection: Connection, catalogue: Catalogue, config: Config, recipients: Sequence[_Recipient],
    now: datetime,
) -> None:  # fmt: skip
    """Lease what was chosen for the hosts."""
    if not recipients:
        return
    await catalogue.load_parameters(
        connection, {c.parameters_id for s in recipients for c in s.chosen}
    )
    chosen = [(s, c, _lease_seconds(catalogue, config, s, c)) for s in recipients for c in s.chosen]
    new_leases = [
        Lease(
            queue_id=candidate.queue_id,
            experiment_id=catalogue.versions[candidate.version_id].experiment_id,
            host_id=recipient.host.host_id,
            user_id=recipient.host.user_id,
            request=recipient.request_id,
            seconds=seconds,
        )
        for recipient, candidate, seconds in chosen
    ]
    tasks = await leases.lease_to_hosts(connection, new_leases, now)
    for recipient, candidate, seconds in chosen:
        task_id = tasks[candidate.workunit_id, candidate.purpose]
        recipient.grants.append(to_grant(catalogue, task_id, candidate, seconds))
    for recipient in recipients:
        recipient.chosen = []


def _lease_seconds(
    catalogue: Catalogue, config: Config, recipient: _Recipient, candidate: CandidateRow
) -> float:
    host = recipient.host
    ahead = recipient.mean_run_seconds * len(recipient.chosen) / max(1, host.cpu_cores + host.gpus)
    budget = catalogue.parameters[candidate.parameters_id].budget_seconds
    return lease.lease_seconds(config.lease, budget, host.pace, ahead)


def to_grant(
    catalogue: Catalogue, task_id: int, source: CandidateRow | TaskRow, seconds: float
) -> Grant:
    """A task as it is sent to the host. The catalogue must hold its parameters."""
    version = catalogue.versions[source.version_id]
    parameters = catalogue.parameters[source.parameters_id]
    return Grant(
        task_id=task_id, experiment=version.name, version=version.version, sha256=version.sha256,
        parameters=parameters.parameters, seed=source.seed,
        budget_seconds=parameters.budget_seconds, lease_seconds=seconds,
        device="gpu" if source.device == "gpu" else "cpu",
    )  # fmt: skip


def _size(catalogue: Catalogue, version_id: int, device: str, gpu_cohort: int) -> float:
    """Slots that one task fills; less than one where a GPU runs several together."""
    manifest = catalogue.versions[version_id].manifest
    if device == "cpu":
        return manifest.resources.cpu_cores
    together = min(manifest.cohort.most, gpu_cohort) if manifest.cohort else 1
    return max(1, manifest.resources.gpus) / max(1, together)


def _slots(catalogue: Catalogue, tasks: Sequence[TaskRow], device: str, gpu_cohort: int) -> float:
    return sum(
        _size(catalogue, t.version_id, device, gpu_cohort) for t in tasks if t.device == device
    )


def _mean_run_seconds(catalogue: Catalogue, view: lease.HostView) -> float:
    """Mean seconds of a run on this host, to convert seconds of buffer into a number of tasks."""
    expected = [
        pool.expected_seconds * lease.together(pool, view)
        for pool in catalogue.pools
        if lease.fits(pool, view)
    ]
    return view.pace * sum(expected) / len(expected) if expected else 1.0
