"""Host facts + what else happens + what the volunteer allows -> the slots that may be used now.

Every slot that may not be used has one reason that a person understands.
"""

from __future__ import annotations

import math

from msgspec import Struct

from axiom_client.decide.model import Limits, Load, Pause, Slot
from axiom_protocol.messages import HostFacts


class Room(Struct, frozen=True, kw_only=True):
    """What may be used now. ``memory_bytes`` and ``disk_bytes`` are for all tasks together."""

    slots: list[Slot]
    memory_bytes: int
    disk_bytes: int

    @property
    def cpu(self) -> list[Slot]:
        """Usable cores."""
        return [s for s in self.slots if s.kind == "cpu" and not s.reason]

    @property
    def gpu(self) -> list[Slot]:
        """Usable GPUs."""
        return [s for s in self.slots if s.kind == "gpu" and not s.reason]


NO_ROOM = Room(slots=[], memory_bytes=0, disk_bytes=0)


def room(
    facts: HostFacts | None,
    load: Load,
    limits: Limits,
    *,
    pause: Pause | None = None,
    stopping: str = "",
) -> Room:
    """The room for tasks now; none before the host was probed."""
    if facts is None:
        return NO_ROOM
    blanket = stopping or _why_rest(facts, load, limits, pause)
    allowed = allowed_cores(facts.cpu_cores, limits)
    cores = [
        Slot(kind="cpu", index=i, reason=blanket or _why_not_core(i, allowed, limits))
        for i in range(facts.cpu_cores)
    ]
    gpus = [
        Slot(kind="gpu", index=i, uuid=gpu.uuid, reason=blanket or _why_not_gpu(limits))
        for i, gpu in enumerate(facts.gpus)
    ]
    return Room(
        slots=cores + gpus,
        memory_bytes=int(facts.memory_bytes * limits.memory_share),
        disk_bytes=min(limits.disk_bytes, facts.disk_free_bytes),
    )


def allowed_cores(cores: int, limits: Limits) -> int:
    """How many cores the volunteer allows: rounded down, but one at least while any are allowed."""
    if limits.cpu_share <= 0:
        return 0
    allowed = max(1, math.floor(cores * limits.cpu_share + 1e-9))
    return min(allowed, limits.cpu_cores) if limits.cpu_cores else allowed


def _why_rest(facts: HostFacts, load: Load, limits: Limits, pause: Pause | None) -> str:
    if pause is not None:
        return pause.reason
    if load.in_use and not limits.while_in_use:
        return "resting: somebody is using this computer"
    if load.on_battery and not limits.on_battery:
        return "resting: on battery"
    share = load.other_cores / facts.cpu_cores
    if limits.other_load_share and share > limits.other_load_share:
        return (
            f"resting: other programs use {share:.0%} of the processor "
            f"(limit {limits.other_load_share:.0%})"
        )
    return ""


def _why_not_core(index: int, allowed: int, limits: Limits) -> str:
    if index < allowed:
        return ""
    if limits.cpu_cores and allowed == limits.cpu_cores:
        return f"kept free: cpu.cores is {limits.cpu_cores}"
    return f"kept free: cpu.share is {limits.cpu_share:.0%}"


def _why_not_gpu(limits: Limits) -> str:
    return "" if limits.gpus else "kept free: gpu.enabled is false"
