"""Slots + tasks in hand -> which to start, pause and resume, and how much more to ask for.

First come, first run; a task that does not fit is passed over, not waited for. A paused task keeps
its memory, so it is counted until it ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from axiom_client.decide.capacity import Room
from axiom_client.decide.model import Bundle, TaskState
from axiom_client.decide.task import ALIVE, WAITING
from axiom_protocol.manifest import Resources
from axiom_protocol.messages import Capacity

REFILL_SHARE = (
    0.5  # ask again when less than this share of the buffer is left: few, larger requests
)
UNKNOWN = Resources()  # what a task is taken to need until its bundle is here
WAITING_PER_CORE_MAX = 5  # enough for any network outage of short tasks; more only hoards leases


class Allocation(Struct, frozen=True, kw_only=True):
    """What is to change. ``start`` pairs a task with the GPU slot it gets, -1 for none.

    ``idle_cores``, ``idle_gpus``: usable, and no task in hand can take them.
    ``passed_over``: why a waiting task did not start though a slot is idle.
    """

    start: list[tuple[int, int]] = []
    pause: list[int] = []
    resume: list[int] = []
    idle_cores: int = 0
    idle_gpus: list[int] = []
    passed_over: str = ""


class _Left:
    """What is still free while tasks are being placed."""

    def __init__(self, room: Room) -> None:
        self.cores = len(room.cpu)
        self.gpus = [slot.index for slot in room.gpu]
        self.memory_bytes = room.memory_bytes
        self.disk_bytes = room.disk_bytes

    def hold(self, needs: Resources) -> None:
        """Count what an existing process holds, whatever the slots allow."""
        self.memory_bytes -= needs.memory_bytes
        self.disk_bytes -= needs.disk_bytes

    def refusal(self, needs: Resources) -> str:
        if needs.gpus > len(self.gpus) or (not needs.gpus and needs.cpu_cores > self.cores):
            return "no slot is free for it"
        if needs.memory_bytes > self.memory_bytes:
            return "the memory allowed is promised to other tasks"
        if needs.disk_bytes > self.disk_bytes:
            return "the disk space allowed is promised to other tasks"
        return ""


def needs_of(task: TaskState, bundles: Mapping[str, Bundle]) -> Resources:
    """What the signed bundle declares; the smallest task there is while the bundle is not here."""
    bundle = bundles.get(task.record.grant.sha256)
    declared = bundle.manifest.resources if bundle and bundle.manifest else UNKNOWN
    gpus = max(1, declared.gpus) if task.record.grant.device == "gpu" else 0
    return declared if declared.gpus == gpus else msgspec.structs.replace(declared, gpus=gpus)


def allocate(
    tasks: Mapping[int, TaskState], bundles: Mapping[str, Bundle], room: Room, now: float
) -> Allocation:
    """Decide from scratch, in order of arrival; asked twice it says the same."""
    left = _Left(room)
    pause: list[int] = []
    resume: list[int] = []
    start: list[tuple[int, int]] = []
    ordered = sorted(tasks.values(), key=lambda t: (t.record.order, t.task_id))
    for task in ordered:
        if task.phase in ALIVE:
            needs = needs_of(task, bundles)
            left.hold(needs)
            if not _keep(task, needs, left):
                if task.phase == "running":
                    pause.append(task.task_id)
            elif task.phase == "paused":
                resume.append(task.task_id)
    passed_over = ""
    for task in ordered:
        if task.phase == "queued" and task.retry_at <= now:
            needs = needs_of(task, bundles)
            if why := left.refusal(needs):
                passed_over = passed_over or why
                continue
            left.hold(needs)
            start.append((task.task_id, _take(needs, left)))
    return Allocation(
        start=start,
        pause=pause,
        resume=resume,
        idle_cores=max(0, left.cores),
        idle_gpus=left.gpus,
        passed_over=passed_over,
    )


def _keep(task: TaskState, needs: Resources, left: _Left) -> bool:
    """Whether a live task may go on, taking its slots when it may."""
    if needs.gpus:
        if task.gpu not in left.gpus:
            return False
        left.gpus.remove(task.gpu)
        return True
    if needs.cpu_cores > left.cores:
        return False
    left.cores -= needs.cpu_cores
    return True


def _take(needs: Resources, left: _Left) -> int:
    """Take the slots for a new task; the GPU it gets, or -1."""
    if needs.gpus:
        return left.gpus.pop(0)
    left.cores -= needs.cpu_cores
    return -1


def task_seconds(
    task: TaskState, bundles: Mapping[str, Bundle], durations: Mapping[str, float]
) -> float:
    """How long a task is expected to take here: this host's own record, else what is declared."""
    if known := durations.get(task.ref):
        return known
    bundle = bundles.get(task.record.grant.sha256)
    if bundle and bundle.manifest:
        return bundle.manifest.expected_seconds
    return max(1.0, task.record.grant.budget_seconds)


def wanted(
    tasks: Mapping[int, TaskState],
    bundles: Mapping[str, Bundle],
    durations: Mapping[str, float],
    room: Room,
    buffer_seconds: float,
) -> Capacity:
    """What the host would take now: slots beyond the tasks in hand, and work to keep them fed.

    The buffer is low when a core has no task waiting behind it, or less than REFILL_SHARE of its
    seconds is left. Then ``buffer_seconds`` says how long it should be; else it is 0: ask no more.
    """
    open_tasks = [t for t in tasks.values() if t.phase != "ended"]
    needs = {t.task_id: needs_of(t, bundles) for t in open_tasks}
    cores, gpus = len(room.cpu), len(room.gpu)
    on_cpu = [t for t in open_tasks if not needs[t.task_id].gpus]
    cores_held = sum(needs[t.task_id].cpu_cores for t in on_cpu)
    gpus_held = sum(needs[t.task_id].gpus for t in open_tasks)
    waiting = [t for t in on_cpu if t.phase in WAITING]
    waiting_cores = max(
        0, min(cores_held - cores, sum(needs[t.task_id].cpu_cores for t in waiting))
    )
    seconds = [task_seconds(t, bundles, durations) for t in waiting]
    waiting_seconds = math.fsum(seconds) / cores if cores else 0.0
    short = (
        cores > 0
        and buffer_seconds > 0
        and waiting_cores < cores * WAITING_PER_CORE_MAX
        and (waiting_cores < cores or waiting_seconds < REFILL_SHARE * buffer_seconds)
    )
    return Capacity(
        cpu_slots=cores,
        gpu_slots=gpus,
        cpu_slots_free=max(0, cores - cores_held),
        gpu_slots_free=max(0, gpus - gpus_held),
        memory_free_bytes=max(
            0,
            room.memory_bytes
            - sum(needs[t.task_id].memory_bytes for t in open_tasks if t.phase in ALIVE),
        ),
        disk_free_bytes=max(
            0,
            room.disk_bytes
            - sum(needs[t.task_id].disk_bytes for t in open_tasks if t.phase in ALIVE),
        ),
        buffer_seconds=_ask_seconds(buffer_seconds, waiting_seconds, waiting_cores, cores, seconds)
        if short
        else 0.0,
    )


def _ask_seconds(
    buffer_seconds: float,
    waiting_seconds: float,
    waiting_cores: int,
    cores: int,
    seconds: list[float],
) -> float:
    """How long the buffer of each core should be: as configured, but a task at least."""
    bare = (cores - waiting_cores) / cores
    typical = math.fsum(seconds) / len(seconds) if seconds else buffer_seconds
    return max(buffer_seconds, waiting_seconds + bare * typical)
