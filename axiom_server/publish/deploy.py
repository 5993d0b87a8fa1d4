"""`axiom-server deploy`: make workunits for idle hosts, for named hosts, or for any host."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from axiom_protocol.manifest import ManifestError, Parameters
from axiom_server.config import DeployConfig
from axiom_server.decide import deploy
from axiom_server.decide.deploy import Candidate, Device, Placement
from axiom_server.decide.standing import StandingPolicy
from axiom_server.errors import ExperimentUnknown, NotFound, Usage
from axiom_server.store import experiments, hosts, session_sums, workunits
from axiom_server.store.database import Connection
from axiom_server.store.experiments import VersionRow
from axiom_server.store.workunits import NewWorkunits


@dataclass(frozen=True, kw_only=True)
class Order:
    """What staff want deployed. Exactly one of ``fill_idle`` and ``count`` is set.

    count       workunits for each named host, or in total for any host; with several parameter
                sets, so many of each
    gpu         for GPUs only; otherwise ``fill_idle`` fills CPUs and GPUs, ``count`` is for CPUs
    ceiling     of work for any host: largest number of workunits of one experiment in the queue
    parameters  parameter sets; one empty set means the defaults
    """

    names: Sequence[str]
    fill_idle: bool = False
    count: int = 0
    hosts: Sequence[int] = ()
    gpu: bool = False
    parameters: Sequence[Parameters] = ({},)
    budget_seconds: float | None = None
    weight: float | None = None
    ceiling: int | None = None


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """The workunits that were created: by experiment, and by host and device.

    standing    whether no host was idle, so that the order waits for hosts that join; see
                ``fill_new_host``
    """

    deployment_id: int | None
    workunits: int
    pool: int
    experiments: dict[str, int]
    hosts: dict[int, dict[str, int]] = field(default_factory=dict)
    standing: bool = False


async def execute_order(
    connection: Connection, order: Order, config: DeployConfig, policy: StandingPolicy
) -> Deployed:
    """Create the workunits, in the caller's transaction.

    Raises ExperimentUnknown, NotFound, Usage.
    """
    chosen = await select_versions(connection, order.names)
    placements = await _placements(connection, order, config, policy, chosen)
    wanted = await _with_parameters(connection, order, chosen, placements)
    if order.ceiling is not None:
        wanted = _apply_ceiling(order.ceiling, await workunits.count_pool(connection), wanted)
    wanted = [w for w in wanted if w.count]
    if order.weight is not None:
        for version in chosen:
            await experiments.set_weight(connection, version.experiment_id, order.weight)
    if not wanted:
        standing = order.fill_idle and not order.hosts
        if standing:
            await _save_standing_order(connection, order)
        return Deployed(deployment_id=None, workunits=0, pool=0, experiments={}, standing=standing)
    by_id = {v.version_id: v for v in chosen}
    made = _summary(by_id, wanted)
    new = await experiments.mark_used(
        connection, [v.experiment_id for v in chosen if made.experiments.get(v.name)]
    )
    record = _record(by_id, order, made, new)
    kind = "idle" if order.fill_idle else "hosts" if order.hosts else "pool"
    deployment_id = await workunits.deploy(
        connection, kind, wanted, config.hold_hours * 3600, record
    )
    if order.fill_idle:
        await hosts.clear_imported_idle(connection, sorted(made.hosts))
    await session_sums.add_deployments(connection)
    return Deployed(
        deployment_id=deployment_id, workunits=made.workunits, pool=made.pool,
        experiments=made.experiments, hosts=made.hosts,
    )  # fmt: skip


async def fill_new_host(
    connection: Connection, host_id: int, config: DeployConfig, policy: StandingPolicy
) -> None:
    """Fill a host that has just joined, by earlier --fill-idle orders that found no idle host.

    An order waits for as long as workunits are reserved for a host (``hold_hours``). Slots that one
    order fills are not idle for the next, so a host never gets more than it can run.
    """
    for standing in await workunits.standing_orders(connection, config.hold_hours * 3600):
        order = msgspec.convert({**standing, "hosts": (host_id,)}, Order)
        try:
            await execute_order(connection, order, config, policy)
        except ExperimentUnknown:
            continue  # retired or withdrawn since the order was given


async def _save_standing_order(connection: Connection, order: Order) -> None:
    record = {"experiments": [], "hosts": [], "pool": 0, "order": msgspec.to_builtins(order)}
    await workunits.deploy(connection, "standing", (), 0.0, record)


def suggest_names(name: str, known: Sequence[str]) -> str:
    """A hint for a misspelt name: similar names, else all of them."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return (
        f"these are published: {', '.join(known)}"
        if known
        else "publish one with: axiom-server publish FILE"
    )


async def select_versions(connection: Connection, names: Sequence[str]) -> list[VersionRow]:
    """The active version for each NAME or NAME@VERSION, in the order given."""
    every = await experiments.versions(connection)
    active = {v.name: v for v in every if v.state == "active"}
    active |= {f"{v.name}@{v.version}": v for v in every if v.state == "active"}
    stopped = {v.name: v for v in every if v.state != "active"}
    chosen = []
    for name in dict.fromkeys(names):
        if name in active:
            chosen.append(active[name])
        elif name in stopped:
            found = stopped[name]
            raise ExperimentUnknown(
                f"{name}@{found.version} is {found.state} ({found.state_reason or 'by staff'}); "
                f"resume it: axiom-server experiments resume {name}"
            )
        else:
            known = sorted({v.name for v in every})
            raise ExperimentUnknown(
                f"no experiment {name!r} is published; {suggest_names(name, known)}"
            )
    return chosen


async def _placements(
    connection: Connection,
    order: Order,
    config: DeployConfig,
    policy: StandingPolicy,
    chosen: Sequence[VersionRow],
) -> list[Placement]:
    candidates = [_candidate(v) for v in chosen]
    device: Device = "gpu" if order.gpu else "cpu"
    if order.fill_idle:
        idle = await hosts.idle_hosts(connection, policy, config.live_minutes * 60)
        if order.hosts:
            idle = [host for host in idle if host.host_id in set(order.hosts)]
        return deploy.fill_idle(candidates, idle, ("gpu",) if order.gpu else ("cpu", "gpu"))
    if not any(c.fits(device) for c in candidates):
        raise Usage(f"none of {', '.join(order.names)} runs on a {device.upper()}")
    if order.hosts:
        there = await hosts.slots_of(connection, list(order.hosts))
        if missing := sorted(set(order.hosts) - there.keys()):
            raise NotFound(f"no host {missing[0]}; axiom-server hosts lists them")
    return deploy.spread(candidates, order.count, list(order.hosts) or [None], device)


async def _with_parameters(
    connection: Connection,
    order: Order,
    chosen: Sequence[VersionRow],
    placements: Sequence[Placement],
) -> list[NewWorkunits]:
    """Add the parameter sets: they share the slots of idle hosts, and each gets a given count."""
    by_id = {v.version_id: v for v in chosen}
    sets: dict[int, list[int]] = {}
    for version_id in sorted({p.version_id for p in placements}):
        version = by_id[version_id]
        budget = order.budget_seconds or version.manifest.expected_seconds
        for parameters in order.parameters:
            try:
                version.manifest.resolve(parameters)
            except ManifestError as error:
                raise Usage(str(error)) from None
            made = await experiments.parameters_id(connection, version_id, parameters, budget)
            sets.setdefault(version_id, []).append(made)
    wanted = []
    turn = dict.fromkeys(sets, 0)
    for p in placements:
        ids = sets[p.version_id]
        for i, parameters_id in enumerate(ids):
            if order.fill_idle:  # the number of slots is fixed, so the sets share them
                ours = (i - turn[p.version_id]) % len(ids)
                count = (p.count - ours + len(ids) - 1) // len(ids)
            else:
                count = p.count
            wanted.append(
                NewWorkunits(
                    version_id=p.version_id, parameters_id=parameters_id, device=p.device,
                    host_id=p.host_id, count=max(0, count),
                )
            )  # fmt: skip
        turn[p.version_id] = (turn[p.version_id] + p.count) % len(ids)
    return wanted


def _apply_ceiling(
    ceiling: int, waiting: Mapping[int, int], wanted: Sequence[NewWorkunits]
) -> list[NewWorkunits]:
    """Reduce the counts so that at most ``ceiling`` workunits of a version are in the queue."""
    room = {w.version_id: max(0, ceiling - waiting.get(w.version_id, 0)) for w in wanted}
    kept = []
    for w in wanted:
        count = min(w.count, room[w.version_id])
        room[w.version_id] -= count
        kept.append(replace(w, count=count))
    return kept


def _candidate(version: VersionRow) -> Candidate:
    resources = version.manifest.resources
    return Candidate(
        version_id=version.version_id,
        environment=version.manifest.environment,
        cpu_cores=resources.cpu_cores,
        gpus=resources.gpus,
        cohort=version.manifest.cohort.most if version.manifest.cohort else 1,
    )


def _summary(by_id: dict[int, VersionRow], wanted: Sequence[NewWorkunits]) -> Deployed:
    names: dict[str, int] = {version.name: 0 for version in by_id.values()}
    per_host: dict[int, dict[str, int]] = {}
    for w in wanted:
        names[by_id[w.version_id].name] += w.count
        if w.host_id is not None:
            host = per_host.setdefault(w.host_id, {"cpu": 0, "gpu": 0})
            host[w.device] += w.count
    return Deployed(
        deployment_id=None,
        workunits=sum(w.count for w in wanted),
        pool=sum(w.count for w in wanted if w.host_id is None),
        experiments=names,
        hosts=dict(sorted(per_host.items(), key=lambda i: (-sum(i[1].values()), i[0]))),
    )


def _record(
    by_id: dict[int, VersionRow], order: Order, made: Deployed, new: set[int]
) -> dict[str, Any]:
    """The deployment's record for the session log. Hosts as [id, cpu, gpu], most work first."""
    return {
        "experiments": [
            {
                "name": v.name,
                "version": v.version,
                "version_id": v.version_id,
                "title": v.manifest.title,
                "workunits": made.experiments[v.name],
                "new": v.experiment_id in new,
            }
            for v in by_id.values()
            if made.experiments[v.name]
        ],
        "hosts": [[host, n["cpu"], n["gpu"]] for host, n in made.hosts.items()],
        "pool": made.pool,
        "parameters": list(order.parameters),
    }
