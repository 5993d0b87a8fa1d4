"""Slots + tasks in hand -> which to start, pause and resume, and how much more to ask for.

First come, first run; a task that does not fit is passed over, not waited for. A paused task keeps
its memory, so it is counted until it ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from axiom_client.decide.capacity import Room
from axiom_client.decide.model import NEVER, Bundle, Slot, TaskState
from axiom_client.decide.task import ALIVE, WAITING
from axiom_protocol.manifest import Resources
from axiom_protocol.messages import Capacity

REFILL_SHARE = (
    0.5  # ask again when less than this share of the buffer is left: few, larger requests
)
UNKNOWN = Resources()  # what a task is taken to need until its bundle is here
LEASE_SHARE = 0.5  # of the shortest lease in hand that a buffer may fill: estimates err by as much
WAITING_PER_CORE_MAX = 5  # enough for any network outage of short tasks; more only hoards leases


class Allocation(Struct, frozen=True, kw_only=True):
    """What is to change. ``start`` pairs a task with the GPU slots it gets, none on the CPU.

    ``passed_over``: why a waiting task did not start, for cores ("cpu") and for GPUs ("gpu"): then
    a slot may be idle though there is work.
    """

    start: list[tuple[int, list[int]]] = []
    pause: list[int] = []
    resume: list[int] = []
    passed_over: dict[str, str] = {}


class _Gpu:
    """What is still free of one GPU."""

    def __init__(self, slot: Slot) -> None:
        self.index = slot.index
        self.share = 1.0
        self.tasks = slot.tasks
        self.memory_bytes = slot.memory_bytes

    def takes(self, needs: Resources) -> bool:
        """Whether one more task fits beside those that are on it."""
        return (
            self.tasks > 0
            and needs.gpu_share <= self.share + 1e-9
            and needs.gpu_memory_bytes <= self.memory_bytes
        )

    def take(self, needs: Resources) -> None:
        self.tasks -= 1
        self.share -= needs.gpu_share
        self.memory_bytes -= needs.gpu_memory_bytes


class _Left:
    """What is still free while tasks are being placed."""

    def __init__(self, room: Room) -> None:
        self.cores = len(room.cpu)
        self.gpus = {slot.index: _Gpu(slot) for slot in room.gpu}
        self.memory_bytes = room.memory_bytes
        self.memory_now = room.memory_now
        self.disk_bytes = room.disk_bytes

    def hold(self, needs: Resources) -> None:
        """Count what an existing process holds, whatever the slots allow."""
        self.memory_bytes -= needs.memory_bytes
        self.disk_bytes -= needs.disk_bytes

    def grow(self, needs: Resources) -> None:
        """Count what a process that began after the last look has yet to take."""
        if self.memory_now is not None:
            self.memory_now -= needs.memory_bytes

    def fitting(self, needs: Resources) -> list[int]:
        """The GPUs that would take the task, emptiest first; as many as it needs, or none."""
        fits = [gpu for gpu in self.gpus.values() if gpu.takes(needs)]
        fits.sort(key=lambda gpu: (-gpu.share, gpu.index))
        return [gpu.index for gpu in fits[: needs.gpus]] if len(fits) >= needs.gpus else []

    def refusal(self, needs: Resources) -> str:
        """Why a task cannot start now; empty when it can."""
        if needs.gpus and not self.fitting(needs):
            return f"the next task needs {_gpus(needs)}"
        if not needs.gpus and needs.cpu_cores > self.cores:
            return f"the next task needs {needs.cpu_cores} cores"
        if needs.memory_bytes > self.memory_bytes:
            return (
                f"the next task needs {_size(needs.memory_bytes)} of memory, and of what tasks may "
                f"have (memory.share) {_size(self.memory_bytes)} is left"
            )
        if self.memory_now is not None and needs.memory_bytes > self.memory_now:
            return (
                f"the next task needs {_size(needs.memory_bytes)} of memory, and this computer has "
                f"too little free now (memory.keep_free)"
            )
        if needs.disk_bytes > self.disk_bytes:
            return (
                f"the next task needs {_size(needs.disk_bytes)} of disk, and of what tasks may "
                f"have (disk.total) {_size(self.disk_bytes)} is left"
            )
        return ""


def _gpus(needs: Resources) -> str:
    room = f" with {_size(needs.gpu_memory_bytes)} of memory" if needs.gpu_memory_bytes else ""
    return f"{needs.gpus} GPUs{room}" if needs.gpus > 1 else f"a GPU{room}"


def _size(size_bytes: int) -> str:
    return f"{max(0, size_bytes) / 1e6:,.0f} MB"


def needs_of(task: TaskState, bundles: Mapping[str, Bundle]) -> Resources:
    """What the signed bundle declares; the smallest task there is while the bundle is not here."""
    bundle = bundles.get(task.record.grant.sha256)
    declared = bundle.manifest.resources if bundle and bundle.manifest else UNKNOWN
    gpus = max(1, declared.gpus) if task.record.grant.device == "gpu" else 0
    return declared if declared.gpus == gpus else msgspec.structs.replace(declared, gpus=gpus)


def allocate(
    tasks: Mapping[int, TaskState],
    bundles: Mapping[str, Bundle],
    room: Room,
    now: float,
    looked_at: float = NEVER,
) -> Allocation:
    """Decide from scratch, in order of arrival; asked twice it says the same.

    looked_at  when the memory that is free was looked at
    """
    left = _Left(room)
    pause: list[int] = []
    resume: list[int] = []
    start: list[tuple[int, list[int]]] = []
    ordered = sorted(tasks.values(), key=lambda t: (t.record.order, t.task_id))
    for task in ordered:
        if task.phase in ALIVE:
            needs = needs_of(task, bundles)
            left.hold(needs)
            if task.running_since > looked_at:
                left.grow(needs)
            if not _keep(task, needs, left):
                if task.phase == "running":
                    pause.append(task.task_id)
            elif task.phase == "paused":
                resume.append(task.task_id)
    passed_over: dict[str, str] = {}
    for task in ordered:
        if task.phase == "queued" and task.retry_at <= now:
            needs = needs_of(task, bundles)
            if why := left.refusal(needs):
                passed_over.setdefault("gpu" if needs.gpus else "cpu", why)
                continue
            left.hold(needs)
            left.grow(needs)
            start.append((task.task_id, _take(needs, left)))
    return Allocation(start=start, pause=pause, resume=resume, passed_over=passed_over)


def _keep(task: TaskState, needs: Resources, left: _Left) -> bool:
    """Whether a live task may go on, taking its slots when it may."""
    if needs.gpus:
        held = [left.gpus[i] for i in task.gpus if i in left.gpus and left.gpus[i].takes(needs)]
        if len(held) < max(1, len(task.gpus)):
            return False
        for gpu in held:
            gpu.take(needs)
        return True
    if needs.cpu_cores > left.cores:
        return False
    left.cores -= needs.cpu_cores
    return True


def _take(needs: Resources, left: _Left) -> list[int]:
    """Take the slots for a new task; the GPUs it gets."""
    if needs.gpus:
        chosen = left.fitting(needs)
        for index in chosen:
            left.gpus[index].take(needs)
        return chosen
    left.cores -= needs.cpu_cores
    return []


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

    A buffer is low when a core or GPU has no task waiting behind it, or less than REFILL_SHARE of
    its seconds is left. Then ``buffer_seconds`` says how long it should be; else it is 0: ask no
    more. Cores for which there is no memory are not counted.
    """
    open_tasks = [t for t in tasks.values() if t.phase != "ended"]
    needs = {t.task_id: needs_of(t, bundles) for t in open_tasks}
    cores, gpus = cores_with_memory(tasks, bundles, room), len(room.gpu)
    buffer_seconds = min(buffer_seconds, _before_deadlines(open_tasks))
    cpu, gpu = _Stock(cores), _Stock(gpus)
    for task in open_tasks:
        need = needs[task.task_id]
        stock, size = (gpu, need.gpus * need.gpu_share) if need.gpus else (cpu, need.cpu_cores)
        stock.add(size, task_seconds(task, bundles, durations), waits=task.phase in WAITING)
    alive = [needs[t.task_id] for t in open_tasks if t.phase in ALIVE]
    return Capacity(
        cpu_slots=cores,
        gpu_slots=gpus,
        cpu_slots_free=max(0, math.floor(cores - cpu.held)),
        gpu_slots_free=max(0, math.floor(gpus - gpu.held + 1e-9)),
        memory_free_bytes=max(0, room.memory_bytes - sum(n.memory_bytes for n in alive)),
        disk_free_bytes=max(0, room.disk_bytes - sum(n.disk_bytes for n in alive)),
        buffer_seconds=max(
            cpu.ask_seconds(buffer_seconds),
            gpu.ask_seconds(buffer_seconds) if gpu.held else 0.0,  # else there is no work for them
        ),
    )


def cores_with_memory(
    tasks: Mapping[int, TaskState], bundles: Mapping[str, Bundle], room: Room
) -> int:
    """How many of the usable cores tasks like those in hand can fill at a time.

    With none in hand, such as this host has had count. Before the first, every core counts.
    """
    in_hand = [bundles.get(t.record.grant.sha256) for t in tasks.values()
               if t.phase != "ended" and t.record.grant.device == "cpu"]  # fmt: skip
    known = [b.manifest.resources for b in in_hand if b and b.manifest]
    known = known or [b.manifest.resources for b in bundles.values()
                      if b.manifest and not b.manifest.resources.gpus]  # fmt: skip
    if not known:
        return len(room.cpu)
    each_bytes = sum(n.memory_bytes for n in known) / sum(n.cpu_cores for n in known)
    return min(len(room.cpu), max(1, int(room.memory_bytes / each_bytes)))


def _before_deadlines(open_tasks: Sequence[TaskState]) -> float:
    """The longest buffer that is surely done before leases such as the host has now run out."""
    leases = [t.record.grant.lease_seconds for t in open_tasks]
    return LEASE_SHARE * min(leases) if leases else math.inf


class _Stock:
    """The work in hand for the cores, or for the GPUs; ``slots`` of them are usable."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.held = 0.0  # slots that all of it would fill
        self._waiting = 0.0
        self._seconds: list[float] = []

    def add(self, size: float, seconds: float, *, waits: bool) -> None:
        """One task of so many slots."""
        self.held += size
        if waits:
            self._waiting += size
            self._seconds.append(seconds)

    def ask_seconds(self, buffer_seconds: float) -> float:
        """How long the buffer of each slot should be; 0 while it is long enough.

        As configured, but a task at least.
        """
        if self.slots <= 0 or buffer_seconds <= 0:
            return 0.0
        behind = max(0.0, min(self.held - self.slots, self._waiting))
        seconds = math.fsum(self._seconds) / self.slots
        enough = behind >= self.slots and seconds >= REFILL_SHARE * buffer_seconds
        if enough or behind >= self.slots * WAITING_PER_CORE_MAX:
            return 0.0
        bare = max(0.0, self.slots - behind) / self.slots
        typical = math.fsum(self._seconds) / len(self._seconds) if self._seconds else buffer_seconds
        return max(buffer_seconds, seconds + bare * typical)
