"""Derives the slots that tasks may use now from the host's facts and the volunteer's limits.

Each slot that may not be used has one reason, in words for people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec import Struct, structs

from axiom_client.decide.model import Limits, Load, Pause, Slot
from axiom_protocol.messages import GpuFacts, HostFacts
from axiom_protocol.text import counted

GPU_TASKS = 2  # largest number of tasks on one GPU unless gpu.tasks sets another


class Room(Struct, frozen=True, kw_only=True):
    """The resources that tasks may use now.

    memory_bytes    memory for all tasks together
    disk_bytes      disk space for all tasks together
    memory_now      free memory that tasks started now may take; None: not known
    blocked         why no task may run at all; empty when tasks may run
    """

    slots: list[Slot]
    memory_bytes: int
    disk_bytes: int
    memory_now: int | None = None
    blocked: str = ""

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
    blocked: str = "",
    gpu_pauses: Mapping[str, Pause] | None = None,
) -> Room:
    """The resources for tasks now; none until the host has been probed."""
    if facts is None:
        return NO_ROOM
    allowed = allowed_cores(facts.cpu_cores, limits)
    cores = [
        Slot(kind="cpu", index=i, reason=blocked or _why_not_core(i, allowed, limits))
        for i in range(facts.cpu_cores)
    ]
    gpus = [
        Slot(
            kind="gpu",
            index=i,
            uuid=gpu.uuid,
            reason=blocked or _why_not_gpu(i, gpu, limits, gpu_pauses or {}),
            tasks=limits.gpu_tasks.get(str(i), limits.gpu_tasks.get("", GPU_TASKS)),
            memory_bytes=gpu.memory_bytes,
            backend=gpu.backend,
        )
        for i, gpu in enumerate(facts.gpus)
    ]
    available = load.memory_available_bytes
    kept = limits.memory_kept_bytes(facts.memory_bytes)
    disk_kept = limits.disk_kept_bytes(load.disk_total_bytes)
    free = facts.disk_free_bytes if load.disk_free_bytes is None else load.disk_free_bytes
    return Room(
        slots=cores + _limit_gpu_count(gpus, limits),
        memory_bytes=int(facts.memory_bytes * limits.memory_share),
        disk_bytes=max(0, min(limits.disk_bytes, int(free - disk_kept))),
        memory_now=None if available is None else max(0, int(available - kept)),
        blocked=blocked,
    )


def allowed_cores(cores: int, limits: Limits) -> int:
    """How many cores the volunteer allows: rounded down, but at least one unless the share is 0."""
    if limits.cpu_share <= 0:
        return 0
    allowed = max(1, math.floor(cores * limits.cpu_share + 1e-9))
    return min(allowed, limits.cpu_cores) if limits.cpu_cores else allowed


def _why_not_core(index: int, allowed: int, limits: Limits) -> str:
    if index < allowed:
        return ""
    if limits.cpu_cores and allowed == limits.cpu_cores:
        return f"kept free: cpu.cores is {limits.cpu_cores}{_origin(limits, 'cpu.cores')}"
    return f"kept free: cpu.share is {limits.cpu_share:.0%}{_origin(limits, 'cpu.share')}"


def _origin(limits: Limits, key: str) -> str:
    """Who set the limit, where it is not the config."""
    return f", {limits.origins[key]}" if key in limits.origins else ""


def _why_not_gpu(index: int, gpu: GpuFacts, limits: Limits, gpu_pauses: Mapping[str, Pause]) -> str:
    if not limits.gpus:
        return "kept free: gpu.enabled is false"
    for word in limits.gpus_excluded:
        if word == str(index) or (not word.isdigit() and word.lower() in _names(gpu)):
            return f"kept free: gpu.exclude has {word}"
    if pause := gpu_pauses.get(gpu.uuid):
        return pause.reason
    if not limits.gpu_tasks.get(str(index), limits.gpu_tasks.get("", GPU_TASKS)):
        return "kept free: gpu.tasks is 0"
    return ""


def _limit_gpu_count(slots: list[Slot], limits: Limits) -> list[Slot]:
    """The GPUs; those beyond ``gpus_max`` get the reason why they may not be used."""
    if limits.gpus_max is None:
        return slots
    usable = [slot.index for slot in slots if not slot.reason][: limits.gpus_max]
    why = f"kept free: {counted(limits.gpus_max, 'GPU')} at most{_origin(limits, 'gpu.enabled')}"
    return [
        slot if slot.reason or slot.index in usable else structs.replace(slot, reason=why)
        for slot in slots
    ]


def _names(gpu: GpuFacts) -> str:
    return f"{gpu.uuid}\n{gpu.pci}\n{gpu.name}".lower()
