"""The agent's state as people and programs see it. All displays are made from one snapshot."""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct

from axiom_client.decide.allocate import cores_with_memory, needs_of, task_seconds
from axiom_client.decide.blocked import blocked_text
from axiom_client.decide.capacity import Room
from axiom_client.decide.model import NEVER, AgentState, Drain, Slot, TaskState
from axiom_client.decide.place import allocation_now, ran_seconds, room_now
from axiom_client.decide.schedule import moment
from axiom_client.decide.sync import credit_today
from axiom_client.decide.task import ALIVE, WAITING
from axiom_protocol.messages import Credit, Outcome
from axiom_protocol.text import counted

PROGRESS_MIN = 0.02  # from here on, an experiment's own progress gives the better estimate
SLOT_KINDS: tuple[Literal["cpu"], Literal["gpu"]] = ("cpu", "gpu")


class Traffic(Struct, frozen=True, kw_only=True):
    """Bytes sent and received since the agent started: messages and bundles, as compressed."""

    sent_bytes: int = 0
    received_bytes: int = 0


class Membership(Struct, frozen=True, kw_only=True):
    """The project, and this host and its user there."""

    project: str
    url: str
    host_id: int
    user: str


class TaskView(Struct, frozen=True, kw_only=True):
    """One task. ``left_seconds`` is an estimate; None for a task that has not begun."""

    task_id: int
    experiment: str
    version: str
    state: Literal["fetching", "queued", "running", "paused", "stopping", "ended"]
    device: Literal["cpu", "gpu"]
    slot: str = ""
    progress: float = 0.0
    elapsed_seconds: float = 0.0
    left_seconds: float | None = None
    attempts: int = 0
    outcome: Outcome | None = None
    reason: str = ""


class SlotView(Struct, frozen=True, kw_only=True):
    """One core or GPU: the task it runs, or why it runs none.

    about      name of the GPU's model
    also       further tasks that share the GPU
    """

    name: str
    task_id: int | None = None
    reason: str = ""
    about: str = ""
    also: list[int] = []


class HostView(Struct, frozen=True, kw_only=True):
    """The computer, as described to the project."""

    name: str = ""
    os: str = ""
    processor: str = ""
    cpu_cores: int = 0
    memory_bytes: int = 0
    benchmark_gflops: float = 0.0
    temperature: float | None = None
    on_battery: bool = False


class Snapshot(Struct, frozen=True, kw_only=True):
    """The agent's state at one moment. Durations count from that moment."""

    state: Literal["running", "paused", "draining", "stopping", "held up", "not running"]
    reason: str
    who: Membership
    host: HostView
    tasks: list[TaskView]
    slots: list[SlotView]
    tasks_running: int
    tasks_waiting: int
    reports_unsent: int
    waiting_seconds: float
    credit: Credit
    credit_today: float
    traffic: Traffic
    contact_seconds_ago: float | None
    next_contact_seconds: float | None
    problem: str
    no_work_reason: str
    notices: list[str]
    gpu_problems: list[str] = []


def snapshot(
    state: AgentState,
    who: Membership,
    now: float,
    *,
    held_up: str = "",
    running: bool = True,
    traffic: Traffic | None = None,
) -> Snapshot:
    """The agent's state at ``now``, monotonic seconds.

    held_up  why the agent cannot go on at all, such as a full disk; empty when it can
    """
    tasks = _tasks(state, now)
    sync = state.sync
    run_state, reason = _state_and_reason(state, held_up, running)
    answered_at, next_at = sync.answered_at, max(sync.next_at, sync.not_before)
    return Snapshot(
        state=run_state,
        reason=reason,
        who=who,
        host=_host(state),
        tasks=tasks,
        slots=_slots(state, held_up if running else "the agent is not running"),
        tasks_running=sum(t.state == "running" for t in tasks),
        tasks_waiting=sum(t.state in ("fetching", "queued") for t in tasks),
        reports_unsent=sum(t.state == "ended" for t in tasks),
        waiting_seconds=_waiting_seconds(state),
        credit=sync.credit or Credit(),
        credit_today=credit_today(state),
        traffic=traffic or Traffic(),
        contact_seconds_ago=now - answered_at if answered_at > -NEVER else None,
        next_contact_seconds=max(0.0, next_at - now) if 0 < next_at < NEVER else None,
        problem=sync.problem,
        gpu_problems=state.gpu_problems,
        no_work_reason=sync.no_work_reason,
        notices=sync.notices,
    )


def _state_and_reason(
    state: AgentState, held_up: str, running: bool
) -> tuple[Literal["running", "paused", "draining", "stopping", "held up", "not running"], str]:
    if not running:
        return "not running", "start it with: axiom-client run"
    if held_up:
        return "held up", held_up
    if state.stop is not None:
        return "stopping", state.stop.reason
    if state.drain is not None:
        return "draining", _drain_text(state, state.drain)
    if state.pause is not None:
        return "paused", state.pause.reason.removeprefix("paused: ")
    if state.facts is None:
        return "running", "starting"
    if blocked := blocked_text(state):
        return "paused", blocked.removeprefix("paused: ")
    return "running", ""


def _drain_text(state: AgentState, drain: Drain) -> str:
    """Why the agent drains, when tasks are ended, and what follows."""
    words = [drain.reason]
    if drain.deadline_wall is not None:
        at = moment(drain.deadline_wall + state.utc_offset_seconds, state.local)
        words.append(f"tasks still running at {at} are ended")
    if drain.then != "stay":
        words.append("then the agent ends" if drain.then == "exit" else "then the agent pauses")
    return "; ".join(words)


def _host(state: AgentState) -> HostView:
    facts = state.facts
    if facts is None:
        return HostView()
    return HostView(
        name=facts.name,
        os=facts.os,
        processor=facts.processor,
        cpu_cores=facts.cpu_cores,
        memory_bytes=facts.memory_bytes,
        benchmark_gflops=facts.benchmark_gflops,
        temperature=state.load.temperature,
        on_battery=state.load.on_battery,
    )


def _waiting_seconds(state: AgentState) -> float:
    """How long the waiting tasks would keep one core busy."""
    waiting = (t for t in state.tasks.values() if t.phase in WAITING)
    return math.fsum(task_seconds(t, state.bundles, state.durations) for t in waiting)


def _tasks(state: AgentState, now: float) -> list[TaskView]:
    places = _places(state)
    return [_task(state, task, places.get(task.task_id, []), now) for task in _in_order(state)]


def _in_order(state: AgentState) -> list[TaskState]:
    return sorted(state.tasks.values(), key=lambda t: (t.record.order, t.task_id))


def _places(state: AgentState) -> dict[int, list[str]]:
    """The names of each task's slots. Tasks are not bound to cores: cores are just numbered."""
    cores = 0
    places: dict[int, list[str]] = {}
    for task in _in_order(state):
        if task.phase not in ALIVE:
            continue
        needs = needs_of(task, state.bundles)
        if needs.gpus:
            places[task.task_id] = [f"GPU {i}" for i in task.gpus if i >= 0]
        elif task.cohort and task.cohort in places:
            places[task.task_id] = places[task.cohort]
        elif task.phase != "paused":
            places[task.task_id] = [f"core {i}" for i in range(cores, cores + needs.cpu_cores)]
            cores += needs.cpu_cores
    return places


def _joined(places: list[str]) -> str:
    """Slot names in short, such as "cores 2-5"."""
    if len(places) > 1 and places[0].startswith("core "):
        return f"cores {places[0].split()[1]}-{places[-1].split()[1]}"
    return ", ".join(places)


def _task(state: AgentState, task: TaskState, places: list[str], now: float) -> TaskView:
    elapsed = ran_seconds(task, now)
    bundle = state.bundles.get(task.record.grant.sha256)
    names = {"granted": "queued" if task.record.accepted else "fetching"}
    reason = bundle.problem if bundle and task.phase == "granted" else ""
    if task.phase == "paused":
        reason = _why_paused(state, task)
    return TaskView(
        task_id=task.task_id,
        experiment=task.record.grant.experiment,
        version=task.record.grant.version,
        state=names.get(task.phase, task.phase),  # type: ignore[arg-type]
        device=task.record.grant.device,
        slot=_joined(places),
        progress=task.progress,
        elapsed_seconds=task.record.elapsed_seconds + elapsed,
        left_seconds=_left_seconds(state, task, elapsed),
        attempts=task.record.attempts,
        outcome=task.outcome,
        reason=reason,
    )


def _left_seconds(state: AgentState, task: TaskState, elapsed: float) -> float | None:
    """An estimate of how long a task still takes; None for one that has not begun."""
    if task.phase not in ("running", "paused"):
        return None
    if task.progress >= PROGRESS_MIN:
        return max(0.0, elapsed / task.progress - elapsed)
    return max(0.0, task_seconds(task, state.bundles, state.durations) - elapsed)


def _why_paused(state: AgentState, task: TaskState) -> str:
    room = room_now(state)
    if room.blocked:
        return room.blocked
    if needs_of(task, state.bundles).gpus:
        reasons = [s.reason for s in room.slots if s.kind == "gpu" and s.index in task.gpus]
        return next(filter(None, reasons), "paused: its GPU is gone")
    reasons = [s.reason for s in room.slots if s.kind == "cpu"]
    return next(filter(None, reasons), "paused: fewer cores may be used now")


def _slots(state: AgentState, stopped_reason: str) -> list[SlotView]:
    """All slots. ``stopped_reason``: why the whole agent does nothing; empty when it works."""
    busy: dict[str, list[int]] = {}
    for task_id, places in _places(state).items():
        for name in places:
            busy.setdefault(name, []).append(task_id)
    room = room_now(state)
    idle = {kind: f"free: {stopped_reason or _why_idle(state, kind)}" for kind in SLOT_KINDS}
    usable = _cores_with_memory(state, room) if busy else len(room.cpu)
    return [
        _slot(state, slot, busy.get(slot.name, []), _slot_reason(slot, usable, idle[slot.kind]))
        for slot in room.slots
    ]


def _slot(state: AgentState, slot: Slot, held: list[int], reason: str) -> SlotView:
    gpus = state.facts.gpus if state.facts else []
    return SlotView(
        name=slot.name,
        task_id=held[0] if held else None,
        also=held[1:],
        reason="" if held else reason,
        about=gpus[slot.index].name if slot.kind == "gpu" else "",
    )


def _slot_reason(slot: Slot, usable_cores: int, idle: str) -> str:
    """Why a slot runs nothing, if it does not."""
    if slot.kind == "cpu" and not slot.reason and slot.index >= usable_cores:
        return (
            "free: the memory that tasks may use (memory.share) is enough for "
            f"{counted(usable_cores, 'core')}"
        )
    return slot.reason or idle


def _cores_with_memory(state: AgentState, room: Room) -> int:
    """Usable cores for which there is memory; all, where a waiting task names what it lacks."""
    if "cpu" in allocation_now(state).passed_over:
        return len(room.cpu)
    return cores_with_memory(state.tasks, state.bundles, room)


def _why_idle(state: AgentState, kind: Literal["cpu", "gpu"]) -> str:
    """Why the cores, or the GPUs, that may be used run nothing."""
    sync = state.sync
    if passed_over := allocation_now(state).passed_over.get(kind):
        return passed_over
    open_tasks = [t for _, t in sorted(state.tasks.items()) if t.phase != "ended"]
    own = [t for t in open_tasks if t.record.grant.device == kind]
    if why := _why_not_yet(state, own):
        return why
    if state.drain is not None:
        return f"draining ({state.drain.reason})"
    if sync.problem:
        return f"no contact: {sync.problem}"
    if kind == "gpu" and open_tasks and not own:
        return "the server has no work for this GPU"
    if sync.out_of_work:
        return sync.no_work_reason or _no_work(state)
    return "asking the server for work"


def _why_not_yet(state: AgentState, tasks: list[TaskState]) -> str:
    """What the first of the waiting tasks waits for; empty when none waits."""
    for task in tasks:
        if task.phase == "granted":
            bundle = state.bundles.get(task.record.grant.sha256)
            problem = bundle.problem if bundle else ""
            return f"fetching {task.ref}: {problem}" if problem else f"fetching {task.ref}"
    for task in tasks:
        if task.phase == "queued" and task.retry_at > state.now:
            return f"the process of task {task.task_id} was lost; it runs again in a moment"
    return ""


def _no_work(state: AgentState) -> str:
    """That the server has no work; without torch, a host cannot run all experiments."""
    environments = state.facts.environments if state.facts else []
    if environments == ["numpy"]:
        return "the server has no work for numpy-only hosts"
    return "the server has no work for this host"
