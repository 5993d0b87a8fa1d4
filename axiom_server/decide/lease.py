"""Decide which queued workunits a host gets: those that fit it, up to its limits."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta, Struct

from axiom_protocol.messages import GRANTS_MAX, Capacity

FAILS_REPEATEDLY = 2  # failed tasks in a row; a single failure is common on a host with 240 cores
EARNING = (
    "this account's hosts hold as many tasks as its standing allows; it gets more work as its "
    "results are confirmed, and less for some time after tasks that ended without a result"
)

Device = Literal["cpu", "gpu"]
HOUR, DAY = 3600.0, 86400.0
#: The longest lease: seven days, or three expected runs if that is longer. So a host that was slow
#: once, perhaps on purpose, cannot hold a task for months.
LEASE_MAX_SECONDS, LEASE_RUNS_MAX = 7 * DAY, 3.0


class LeasePolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many tasks a host may hold, and for how long.

    buffer_seconds_max      most seconds of work queued on a host beyond what it runs
    tasks_per_host          most tasks that one host may hold; 0: limited by slots and buffer
    tasks_per_user          most tasks that all hosts of one user may hold; 0: no limit
    deadline_factor         a lease lasts this many times the expected run on this host
    deadline_min_seconds    and at least this long, because laptops sleep and networks fail
    silent_hours            leases of a host end when it has not synced for this long
    """

    buffer_seconds_max: Annotated[float, Meta(ge=0)] = DAY
    tasks_per_host: Annotated[int, Meta(ge=0)] = 0
    tasks_per_user: Annotated[int, Meta(ge=0)] = 0
    deadline_factor: Annotated[float, Meta(ge=1)] = 10.0
    deadline_min_seconds: Annotated[float, Meta(gt=0)] = 6 * HOUR
    silent_hours: Annotated[float, Meta(gt=0)] = 24.0


@dataclass(frozen=True, kw_only=True)
class HostView:
    """What the server knows about a host when it grants work.

    pace        elapsed seconds on its cores divided by those declared: 2.0 is half as fast
    failing     number of tasks that failed since its last success
    leased      slots that its tasks fill after this request, by device
    user_leased tasks that all hosts of its user hold
    quota       tasks that the standing of its user allows all these hosts; None: no limit
    """

    cpu_cores: int
    gpus: int
    memory_bytes: int
    environments: frozenset[str]
    pace: float = 1.0
    failing: int = 0
    leased: Mapping[Device, float]
    user_leased: int = 0
    quota: int | None = None
    quarantined: str = ""  # the reason; empty when it is not
    gpu_cohort: int = 1  # tasks of one version that one of its GPUs runs together


@dataclass(frozen=True, kw_only=True)
class PoolView:
    """One version's workunits for one device that any host may get."""

    version_id: int
    device: Device
    environment: str
    cpu_cores: int
    memory_bytes: int
    expected_seconds: float
    weight: float = 1.0
    cohort: int = 1  # most of its tasks that one slot runs together


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many slots of each device may be filled with new tasks, and why not more.

    tasks   largest number of tasks, whatever number of slots each takes
    """

    cpu: float
    gpu: float
    reason: str = ""
    tasks: int = GRANTS_MAX

    def of(self, device: Device) -> float:
        """Slots of the device."""
        return self.gpu if device == "gpu" else self.cpu


NO_ROOM = Room(cpu=0, gpu=0)


def room(
    policy: LeasePolicy, host: HostView, capacity: Capacity, draining: str, mean_seconds: float
) -> Room:
    """Slots to fill: those that the host asks for, limited by its size and by the tasks it holds.

    mean_seconds  mean duration of a run on this host, to convert seconds of buffer into tasks
    """
    if draining:
        return NO_ROOM
    if host.quarantined:
        return Room(cpu=0, gpu=0, reason=f"this host is quarantined: {host.quarantined}")
    held = host.leased["cpu"] + host.leased["gpu"]
    if host.failing >= FAILS_REPEATEDLY and host.quota != 0:
        # One task at a time until one succeeds, so that a broken host wastes one task per attempt.
        return Room(
            cpu=0 if held else min(capacity.cpu_slots_free, capacity.cpu_slots, host.cpu_cores),
            gpu=0 if held else min(capacity.gpu_slots_free, capacity.gpu_slots, host.gpus),
            reason="its last tasks failed; it gets one at a time until one succeeds", tasks=1,
        )  # fmt: skip
    cpu = _device_room(policy, capacity.cpu_slots, capacity.cpu_slots_free, host.cpu_cores,
                       host.leased["cpu"], capacity.buffer_seconds, mean_seconds)  # fmt: skip
    gpu = _device_room(policy, capacity.gpu_slots, capacity.gpu_slots_free, host.gpus,
                       host.leased["gpu"], capacity.buffer_seconds, mean_seconds)  # fmt: skip
    limit = GRANTS_MAX
    if policy.tasks_per_host:
        limit = min(limit, max(0, math.floor(policy.tasks_per_host - held)))
    if policy.tasks_per_user:
        limit = min(limit, max(0, policy.tasks_per_user - host.user_leased))
    reason = "" if limit else "the limit of tasks for this host or user is reached"
    if host.quota is not None:
        earned = max(0, host.quota - host.user_leased)
        reason = reason or (EARNING if cpu + gpu > 0 and not earned else "")
        limit = min(limit, earned)
    gpu = min(gpu, limit)
    cpu = min(cpu, limit - gpu)
    return Room(cpu=cpu, gpu=gpu, reason=reason, tasks=limit)


def _device_room(
    policy: LeasePolicy, slots: int, free: int, owned: int, held: float,
    buffer_seconds: float, mean_seconds: float,
) -> int:  # fmt: skip
    slots = min(slots, owned)
    free = min(free, slots)
    buffer = min(buffer_seconds, policy.buffer_seconds_max)
    ahead = math.ceil(slots * buffer / max(mean_seconds, 1.0))
    return max(0, min(free + ahead, slots + ahead - math.ceil(held - 1e-9)))


def fits(pool: PoolView, host: HostView) -> bool:
    """Whether a host could run a version's workunits at all."""
    return (
        pool.environment in host.environments
        and pool.memory_bytes <= host.memory_bytes
        and pool.cpu_cores <= host.cpu_cores
        and (pool.device == "cpu" or host.gpus > 0)
    )


def pool_shares(
    pools: Sequence[PoolView],
    host: HostView,
    room_left: Room,
    granted: Mapping[tuple[int, str], float],
    empty_pools: Collection[tuple[int, str]],
) -> list[tuple[PoolView, int]]:
    """How many workunits to take from each pool: by weight, the pool with the fewest grants first.

    granted      workunits granted from each pool so far, divided by its weight; an approximate
                 count, such as that of one process, is enough
    empty_pools  pools that were empty a moment ago
    """
    shares: list[tuple[PoolView, int]] = []
    tasks = room_left.tasks
    for device in ("gpu", "cpu"):
        usable = [
            p
            for p in pools
            if p.device == device and (p.version_id, device) not in empty_pools and fits(p, host)
        ]
        usable.sort(key=lambda p: (granted.get((p.version_id, p.device), 0.0), p.version_id))
        slots = room_left.of(device)
        total = sum(p.weight for p in usable)
        for pool in usable:
            if slots <= 0 or total <= 0 or tasks <= 0:
                break
            size = pool.cpu_cores if device == "cpu" else 1 / together(pool, host)
            share = math.ceil(slots * pool.weight / total)
            total -= pool.weight
            whole = math.floor(min(share, slots) / size + 1e-9)
            count = min(tasks, whole or (1 if size <= slots + 1e-9 else 0))
            if count:
                shares.append((pool, count))
                tasks -= count
                slots -= count * size
    return shares


def together(pool: PoolView, host: HostView) -> int:
    """How many tasks of a pool one slot of this host runs together."""
    return max(1, min(pool.cohort, host.gpu_cohort)) if pool.device == "gpu" else 1


def choose(sizes: Sequence[tuple[Device, float]], room_left: Room) -> list[int]:
    """Indices of the candidates that fit, in the given order; a candidate is (device, slots)."""
    left = {"cpu": room_left.cpu, "gpu": room_left.gpu}
    chosen: list[int] = []
    for i, (device, slots) in enumerate(sizes):
        if slots <= left[device] + 1e-9 and len(chosen) < room_left.tasks:
            left[device] -= slots
            chosen.append(i)
    return chosen


def lease_seconds(policy: LeasePolicy, expected: float, pace: float, ahead: float) -> float:
    """Seconds that a host may hold a task, from its speed and the work that it does first.

    ahead  seconds of other work in its buffer that will run before the task
    """
    run = expected * min(max(pace, 0.1), 100.0)
    lease = max(policy.deadline_min_seconds, policy.deadline_factor * run) + ahead
    return min(lease, max(LEASE_MAX_SECONDS, LEASE_RUNS_MAX * expected))
