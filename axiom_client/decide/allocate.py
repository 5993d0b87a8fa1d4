"""Chooses which tasks to start, pause and resume, and how much work to ask the server for.

Tasks start in order of arrival. One that does not fit is skipped, so that those behind it need not
wait for it. A paused task keeps its memory, so its memory counts until it ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from axiom_client.decide.capacity import Room
from axiom_client.decide.cohort import choose_members, lost_together, process_needs, seeds_max
from axiom_client.decide.model import NEVER, Bundle, Slot, TaskState
from axiom_client.decide.task import ALIVE, WAITING
from axiom_protocol.manifest import Resources
from axiom_protocol.messages import Capacity
from axiom_protocol.text import counted, megabytes

# The agent asks for work when less than this share of the buffer is left: few but larger requests.
REFILL_SHARE = 0.5
UNKNOWN = Resources()  # assumed needs of a task until its bundle has been fetched
# The buffer fills at most this share of the shortest lease, since estimates are off by as much.
LEASE_SHARE = 0.5
# Enough for a network outage even with short tasks; more would only keep work from other hosts.
WAITING_PER_CORE_MAX = 5


class Allocation(Struct, frozen=True, kw_only=True):
    """Which tasks to start, pause and resume.

    start         task and the indices of the GPUs it gets; none for a task on the CPU
    members       further members of the cohorts that some of these tasks begin, by first task
    passed_over   why the first waiting task that did not fit could not start, for "cpu" and "gpu";
                  explains a slot that is idle although tasks wait
    """

    start: list[tuple[int, list[int]]] = []
    members: dict[int, list[int]] = {}
    pause: list[int] = []
    resume: list[int] = []
    passed_over: dict[str, str] = {}


class _Gpu:
    """What is still free on one GPU while tasks are placed."""

    def __init__(self, slot: Slot) -> None:
        self.index, self.backend = slot.index, slot.backend
        self.share = 1.0
        self.tasks = slot.tasks
        self.memory_bytes = slot.memory_bytes

    def takes(self, needs: Resources) -> bool:
        """Whether a task fits beside those already placed on this GPU."""
        return (
            self.tasks > 0
            and needs.gpu_share <= self.share + 1e-9
            and needs.gpu_memory_bytes <= self.memory_bytes
        )

    def take(self, needs: Resources) -> None:
        self.tasks -= 1
        self.share -= needs.gpu_share
        self.memory_bytes -= needs.gpu_memory_bytes


class _Free:
    """What is still free on the host while tasks are placed."""

    def __init__(self, room: Room) -> None:
        self.cores = len(room.cpu)
        self.gpus = {slot.index: _Gpu(slot) for slot in room.gpu}
        self.memory_bytes = room.memory_bytes
        self.memory_now = room.memory_now
        self.disk_bytes = room.disk_bytes

    def hold(self, needs: Resources) -> None:
        """Count the memory and disk promised to a task, even beyond what is free."""
        self.memory_bytes -= needs.memory_bytes
        self.disk_bytes -= needs.disk_bytes

    def grow(self, needs: Resources) -> None:
        """Count memory that a task has yet to take: it started when it was measured, or later."""
        if self.memory_now is not None:
            self.memory_now -= needs.memory_bytes

    def fitting(self, needs: Resources) -> list[int]:
        """The GPUs for a task, emptiest first: as many as it needs, or none if too few fit.

        All are of one vendor: a process uses one driver.
        """
        fits = [gpu for gpu in self.gpus.values() if gpu.takes(needs)]
        fits.sort(key=lambda gpu: (-gpu.share, gpu.index))
        for backend in dict.fromkeys(gpu.backend for gpu in fits):
            alike = [gpu.index for gpu in fits if gpu.backend == backend]
            if len(alike) >= needs.gpus:
                return alike[: needs.gpus]
        return []

    def refusal(self, needs: Resources) -> str:
        """Why a task cannot start now; empty when it can."""
        if needs.gpus and not self.fitting(needs):
            return f"the next task needs {_gpus(needs)}"
        if not needs.gpus and needs.cpu_cores > self.cores:
            return f"the next task needs {counted(needs.cpu_cores, 'core')}"
        if needs.memory_bytes > self.memory_bytes:
            return (
                f"the next task needs {megabytes(needs.memory_bytes)} of memory, and "
                f"{megabytes(self.memory_bytes)} is left of what all tasks may use (memory.share)"
            )
        if self.memory_now is not None and needs.memory_bytes > self.memory_now:
            return (
                f"the next task needs {megabytes(needs.memory_bytes)} of memory, and this "
                "computer has too little free now (memory.keep_free)"
            )
        if needs.disk_bytes > self.disk_bytes:
            return (
                f"the next task needs {megabytes(needs.disk_bytes)} of disk space, and "
                f"{megabytes(self.disk_bytes)} is left of what all tasks may use (disk.total)"
            )
        return ""


def _gpus(needs: Resources) -> str:
    room = f" with {megabytes(needs.gpu_memory_bytes)} of memory" if needs.gpu_memory_bytes else ""
    return f"{counted(needs.gpus, 'GPU')}{room}"


def needs_of(task: TaskState, bundles: Mapping[str, Bundle]) -> Resources:
    """The resources that the signed bundle declares; the minimum until the bundle is fetched."""
    bundle = bundles.get(task.record.grant.sha256)
    declared = bundle.manifest.resources if bundle and bundle.manifest else UNKNOWN
    gpus = max(1, declared.gpus) if task.record.grant.device == "gpu" else 0
    return declared if declared.gpus == gpus else msgspec.structs.replace(declared, gpus=gpus)


def allocate(
    tasks: Mapping[int, TaskState],
    bundles: Mapping[str, Bundle],
    room: Room,
    now: float,
    measured_at: float = NEVER,
) -> Allocation:
    """Decide from the whole state, in order of arrival; the same input gives the same answer.

    measured_at  when the free memory of ``room`` was measured
    """
    free = _Free(room)
    ordered = sorted(tasks.values(), key=lambda t: (t.record.order, t.task_id))
    alive = [(task, needs_of(task, bundles)) for task in ordered if task.phase in ALIVE]
    queued = [(task, needs_of(task, bundles)) for task in ordered if task.phase == "queued"]
    pause, resume = _continue(alive, free, measured_at, bundles)
    start, members, passed_over = _start(queued, now, free, bundles)
    return Allocation(
        start=start, members=members, pause=pause, resume=resume, passed_over=passed_over
    )


def _continue(
    alive: Sequence[tuple[TaskState, Resources]],
    free: _Free,
    measured_at: float,
    bundles: Mapping[str, Bundle],
) -> tuple[list[int], list[int]]:
    """Which tasks with a process to pause and which to resume; the others keep their slots."""
    pause: list[int] = []
    resume: list[int] = []
    process_fits: dict[int, bool] = {}
    for task, one in alive:
        if task.process_id not in process_fits:
            needs = process_needs(task, one, bundles)
            free.hold(needs)
            if task.running_since >= measured_at:
                free.grow(needs)
            process_fits[task.process_id] = _keep_slots(task, needs, free)
        fits = process_fits[task.process_id]
        if not fits and task.phase == "running":
            pause.append(task.task_id)
        elif fits and task.phase == "paused":
            resume.append(task.task_id)
    return pause, resume


def _start(
    queued: Sequence[tuple[TaskState, Resources]],
    now: float,
    free: _Free,
    bundles: Mapping[str, Bundle],
) -> tuple[list[tuple[int, list[int]]], dict[int, list[int]], dict[str, str]]:
    """``start``, ``members`` and ``passed_over`` of an Allocation."""
    start: list[tuple[int, list[int]]] = []
    members: dict[int, list[int]] = {}
    passed_over: dict[str, str] = {}
    placed: set[int] = set()
    for i, (task, needs) in enumerate(queued):
        if task.task_id in placed or task.retry_at > now:
            continue
        if why := free.refusal(needs):
            passed_over.setdefault("gpu" if needs.gpus else "cpu", why)
            continue
        later = [
            (t, n)
            for j, (t, n) in enumerate(queued)
            if t.task_id not in placed and (j > i if t.retry_at <= now else lost_together(task, t))
        ]
        further = _members(task, needs, later, free, bundles)
        if further:
            members[task.task_id] = [member.task_id for member in further]
            placed.update(members[task.task_id])
            needs = _cohort_needs(task, needs, 1 + len(further), bundles)
        free.hold(needs)
        free.grow(needs)
        start.append((task.task_id, _take_slots(needs, free)))
    return start, members, passed_over


def _members(
    task: TaskState,
    needs: Resources,
    later: Sequence[tuple[TaskState, Resources]],
    free: _Free,
    bundles: Mapping[str, Bundle],
) -> list[TaskState]:
    """The further members of the task's cohort; on cores, only so many that no core stays idle."""
    limit = seeds_max(task, bundles)
    if limit == 1:
        return []
    if not needs.gpus:
        waiting = 1 + sum(not other.gpus for _, other in later)
        limit = min(limit, math.ceil(waiting * needs.cpu_cores / max(1, free.cores)))
    return choose_members(
        task,
        [other for other, _ in later],
        limit,
        lambda seeds: not free.refusal(_cohort_needs(task, needs, seeds, bundles)),
    )


def _cohort_needs(
    task: TaskState, one: Resources, seeds: int, bundles: Mapping[str, Bundle]
) -> Resources:
    return process_needs(msgspec.structs.replace(task, cohort_size=seeds), one, bundles)


def _keep_slots(task: TaskState, needs: Resources, free: _Free) -> bool:
    """Whether a task with a process may run; takes its slots if so."""
    if needs.gpus:
        held = [free.gpus[i] for i in task.gpus if i in free.gpus and free.gpus[i].takes(needs)]
        if len(held) < max(1, len(task.gpus)):
            return False
        for gpu in held:
            gpu.take(needs)
        return True
    if needs.cpu_cores > free.cores:
        return False
    free.cores -= needs.cpu_cores
    return True


def _take_slots(needs: Resources, free: _Free) -> list[int]:
    """Take the slots for a new task; returns the indices of its GPUs."""
    if needs.gpus:
        chosen = free.fitting(needs)
        for index in chosen:
            free.gpus[index].take(needs)
        return chosen
    free.cores -= needs.cpu_cores
    return []


def duration_key(task: TaskState, core_kind: str = "") -> str:
    """The name under which the duration of a task's process is stored.

    core_kind   empty for a GPU, and for a host whose cores are all alike
    """
    key = f"{task.ref}+gpu" if task.record.grant.device == "gpu" else task.ref
    return f"{key}+{core_kind}" if core_kind else key


def task_seconds(
    task: TaskState, bundles: Mapping[str, Bundle], durations: Mapping[str, float]
) -> float:
    """Expected duration of a task here: from earlier runs on this host, else as declared.

    Where cores differ, the mean of both kinds: which one a task will run on is not known.
    """
    keys = (duration_key(task), duration_key(task, "efficiency"))
    if known := [durations[key] for key in keys if durations.get(key)]:
        return math.fsum(known) / len(known)
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
    """How much work to ask the server for: free slots, and seconds of work to keep waiting.

    The buffer is low when a core or GPU has no task waiting for it, or less than REFILL_SHARE of
    the buffer is left. ``buffer_seconds`` is then its wanted length, else 0: no more is needed.
    Cores for which memory is too short are not counted.
    """
    open_tasks = [t for t in tasks.values() if t.phase != "ended"]
    needs = {t.task_id: needs_of(t, bundles) for t in open_tasks}
    cores, gpus = cores_with_memory(tasks, bundles, room), len(room.gpu)
    buffer_seconds = min(buffer_seconds, _before_deadlines(open_tasks))
    cpu, gpu = _WorkInHand(cores), _WorkInHand(gpus)
    for task in open_tasks:
        need = needs[task.task_id]
        work, size = (gpu, need.gpus * need.gpu_share) if need.gpus else (cpu, need.cpu_cores)
        seconds, waits = task_seconds(task, bundles, durations), task.phase in WAITING
        work.add(size, seconds, waits=waits, seeds=_seeds(task, need, bundles))
    processes = {t.process_id: t for t in open_tasks if t.phase in ALIVE}
    alive = [process_needs(t, needs[t.task_id], bundles) for t in processes.values()]
    return Capacity(
        cpu_slots=cores,
        gpu_slots=gpus,
        cpu_slots_free=max(0, math.floor(cores - cpu.held)),
        gpu_slots_free=max(0, math.floor(gpus - gpu.held + 1e-9)),
        memory_free_bytes=max(0, room.memory_bytes - sum(n.memory_bytes for n in alive)),
        disk_free_bytes=max(0, room.disk_bytes - sum(n.disk_bytes for n in alive)),
        buffer_seconds=max(
            cpu.ask_seconds(buffer_seconds),
            gpu.ask_seconds(buffer_seconds)
            if gpu.held
            else 0.0,  # no GPU task in hand: the server had none
        ),
    )


def _seeds(task: TaskState, needs: Resources, bundles: Mapping[str, Bundle]) -> int:
    """How many tasks share the process of this one, or will share it."""
    if task.phase in ALIVE:
        return task.cohort_size
    return seeds_max(task, bundles) if needs.gpus else 1


def cores_with_memory(
    tasks: Mapping[int, TaskState], bundles: Mapping[str, Bundle], room: Room
) -> int:
    """How many of the usable cores have enough memory for tasks like those in hand.

    Without tasks in hand, those of known bundles count. Without any, all usable cores.
    """
    needs = _needs_in_hand(tasks, bundles) or [
        bundle.manifest.resources
        for bundle in bundles.values()
        if bundle.manifest and not bundle.manifest.resources.gpus
    ]
    if not needs:
        return len(room.cpu)
    bytes_per_core = sum(n.memory_bytes for n in needs) / sum(n.cpu_cores for n in needs)
    return min(len(room.cpu), max(1, int(room.memory_bytes / bytes_per_core)))


def _needs_in_hand(
    tasks: Mapping[int, TaskState], bundles: Mapping[str, Bundle]
) -> list[Resources]:
    """The resources of the CPU tasks in hand whose bundles have been fetched."""
    in_hand = [
        bundles.get(task.record.grant.sha256)
        for task in tasks.values()
        if task.phase != "ended" and task.record.grant.device == "cpu"
    ]
    return [bundle.manifest.resources for bundle in in_hand if bundle and bundle.manifest]


def _before_deadlines(open_tasks: Sequence[TaskState]) -> float:
    """The longest buffer, in seconds, that is done well before the shortest lease in hand ends."""
    leases = [t.record.grant.lease_seconds for t in open_tasks]
    return LEASE_SHARE * min(leases) if leases else math.inf


class _WorkInHand:
    """The tasks in hand for the cores, or for the GPUs. ``slots``: how many of these are usable."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.held = 0.0  # slots that these tasks would fill
        self._waiting = 0.0
        self._seconds: list[float] = []
        self._processes = 0.0

    def add(self, size: float, seconds: float, *, waits: bool, seeds: int) -> None:
        """Count one task whose process fills ``size`` slots and is shared by ``seeds`` tasks."""
        self.held += size / seeds
        if waits:
            self._waiting += size / seeds
            self._seconds.append(seconds / seeds)
            self._processes += 1 / seeds

    def ask_seconds(self, buffer_seconds: float) -> float:
        """How long each slot's buffer should be: as configured, but at least one task.

        0 while the buffer is long enough.
        """
        if self.slots <= 0 or buffer_seconds <= 0:
            return 0.0
        behind = max(0.0, min(self.held - self.slots, self._waiting))
        seconds = math.fsum(self._seconds) / self.slots
        enough = behind >= self.slots and seconds >= REFILL_SHARE * buffer_seconds
        if enough or behind >= self.slots * WAITING_PER_CORE_MAX:
            return 0.0
        uncovered = max(0.0, self.slots - behind) / self.slots  # share of slots without a next task
        known = math.fsum(self._seconds) / self._processes if self._seconds else buffer_seconds
        return max(buffer_seconds, seconds + uncovered * known)
