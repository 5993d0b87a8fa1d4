"""Decide which new workunits to create: one for each idle slot, evenly over the experiments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Device = Literal["cpu", "gpu"]


@dataclass(frozen=True, kw_only=True)
class IdleHost:
    """A host with idle slots: they run nothing, and no queued workunit is reserved for them.

    earned  tasks that its user may still have in hand, over all hosts; None: no limit
    """

    host_id: int
    cpu: int
    gpu: int
    user_id: int | None = None
    earned: int | None = None
    gpu_cohort: int = 1  # workunits of one version that one of its GPUs runs together
    environments: frozenset[str] = frozenset()  # empty: unknown (imported), assumed to have all


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A published version that may be deployed."""

    version_id: int
    environment: str
    cpu_cores: int = 1
    gpus: int = 0  # how many it needs; with 0 it runs on the CPU, or on a GPU if it uses torch
    cohort: int = 1  # largest number of its workunits that one GPU runs together

    def fits(self, device: Device) -> bool:
        """Whether one of its workunits can use a slot of this device."""
        return (self.gpus > 0 or self.environment == "torch") if device == "gpu" else self.gpus == 0

    def slots(self, device: Device) -> int:
        """How many slots of the device one workunit takes."""
        return max(1, self.gpus) if device == "gpu" else self.cpu_cores


@dataclass(frozen=True, kw_only=True)
class Placement:
    """``count`` workunits of a version for a host's device; host None means any host."""

    version_id: int
    host_id: int | None
    device: Device
    count: int


def limit_by_standing(hosts: Sequence[IdleHost]) -> list[IdleHost]:
    """The hosts, with their idle slots limited to what each user's standing allows in total."""
    left: dict[int | None, int] = {}
    bounded = []
    for host in hosts:
        if host.earned is not None:
            room = left.setdefault(host.user_id, host.earned)
            gpu = min(host.gpu, room)
            cpu = min(host.cpu, room - gpu)
            left[host.user_id] = room - gpu - cpu
            host = replace(host, cpu=cpu, gpu=gpu)
        bounded.append(host)
    return [host for host in bounded if host.cpu > 0 or host.gpu > 0]


def fill_idle(
    candidates: Sequence[Candidate], hosts: Sequence[IdleHost], devices: Sequence[Device]
) -> list[Placement]:
    """Fill exactly the idle slots of each host.

    Versions take turns, and the order continues from host to host, so that a 240-core host and many
    small ones both get an even mix. GPUs come first, because fewer versions can use them; the CPU
    slots then even out the totals.
    """
    placed = []
    given = dict.fromkeys((c.version_id for c in candidates), 0)
    for device in sorted(devices, reverse=True):
        for host in sorted(hosts, key=lambda h: (-h.cpu, h.host_id)):
            fitting = [
                c
                for c in candidates
                if c.fits(device) and (not host.environments or c.environment in host.environments)
            ]
            counts = _fill_slots(fitting, host, device, given)
            placed += [
                Placement(version_id=v, host_id=host.host_id, device=device, count=n)
                for v, n in counts.items()
            ]
    return placed


def spread(
    candidates: Sequence[Candidate], count: int, hosts: Sequence[int | None], device: Device
) -> list[Placement]:
    """``count`` workunits for each of ``hosts`` (None: any host), versions taking turns."""
    fitting = [c for c in candidates if c.fits(device)]
    placed = []
    for turn, host_id in enumerate(hosts):
        for i, candidate in enumerate(fitting):
            place = (i - turn * count) % len(fitting)  # continues where the previous host ended
            share = (count - place + len(fitting) - 1) // len(fitting)
            if share > 0:
                placed.append(
                    Placement(
                        version_id=candidate.version_id,
                        host_id=host_id,
                        device=device,
                        count=share,
                    )
                )
    return placed


def _fill_slots(
    fitting: Sequence[Candidate], host: IdleHost, device: Device, given: dict[int, int]
) -> dict[int, int]:
    """Fill the slots one by one, each with the version that has the fewest workunits so far.

    Of equals, the first is taken. A GPU slot gets as many workunits as it runs together.
    """
    counts: dict[int, int] = {}
    slots = host.gpu if device == "gpu" else host.cpu
    left = math.inf if host.earned is None else host.earned
    while left > 0 and (usable := [c for c in fitting if c.slots(device) <= slots]):
        chosen = min(usable, key=lambda c: given[c.version_id])
        together = max(1, min(chosen.cohort, host.gpu_cohort)) if device == "gpu" else 1
        count = int(min(together, left))
        given[chosen.version_id] += count
        counts[chosen.version_id] = counts.get(chosen.version_id, 0) + count
        slots -= chosen.slots(device)
        left -= count
    return counts
