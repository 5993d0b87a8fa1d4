"""What a person or a program may see of the agent: one snapshot, from which displays are made."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from axiom_client.decide.allocate import needs_of, task_seconds
from axiom_client.decide.follow import allocation_now, ran_seconds, room_now
from axiom_client.decide.model import NEVER, AgentState, TaskState
from axiom_client.decide.task import ALIVE
from axiom_protocol.messages import Credit, Outcome


class Who(Struct, frozen=True, kw_only=True):
    """Whose host this is."""

    project: str
    url: str
    host_id: int
    user: str


class TaskView(Struct, frozen=True, kw_only=True):
    """One task. ``left_seconds`` is an estimate; None where there is no ground for one."""

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
    """One core or GPU: the task it runs, or the reason why it runs none."""

    name: str
    task_id: int | None = None
    reason: str = ""


class Snapshot(Struct, frozen=True, kw_only=True):
    """The agent at one moment. Times are seconds from that moment."""

    state: Literal["running", "paused", "draining", "stopping", "held up", "not running"]
    reason: str
    who: Who
    host: str
    tasks: list[TaskView]
    slots: list[SlotView]
    tasks_running: int
    tasks_waiting: int
    reports_unsent: int
    credit: Credit
    contact_seconds_ago: float | None
    next_contact_seconds: float | None
    problem: str
    no_work_reason: str
    notices: list[str]


def snapshot(
    state: AgentState, who: Who, now: float, *, held_up: str = "", running: bool = True
) -> Snapshot:
    """The agent as it is at ``now``, monotonic seconds."""
    tasks = _tasks(state, now)
    exchange = state.exchange
    word, reason = _word(state, held_up, running)
    answered_at, next_at = exchange.answered_at, max(exchange.next_at, exchange.not_before)
    return Snapshot(
        state=word,
        reason=reason,
        who=who,
        host=state.facts.name if state.facts else "",
        tasks=tasks,
        slots=_slots(state, tasks),
        tasks_running=sum(t.state == "running" for t in tasks),
        tasks_waiting=sum(t.state in ("fetching", "queued") for t in tasks),
        reports_unsent=sum(t.state == "ended" for t in tasks),
        credit=exchange.credit or Credit(),
        contact_seconds_ago=now - answered_at if answered_at > -NEVER else None,
        next_contact_seconds=max(0.0, next_at - now) if 0 < next_at < NEVER else None,
        problem=exchange.problem,
        no_work_reason=exchange.no_work_reason,
        notices=exchange.notices,
    )


def _word(
    state: AgentState, held_up: str, running: bool
) -> tuple[Literal["running", "paused", "draining", "stopping", "held up", "not running"], str]:
    if not running:
        return "not running", "start it with: axiom-client run"
    if held_up:
        return "held up", held_up
    if state.stop is not None:
        return "stopping", state.stop.reason
    if state.drain is not None:
        return "draining", state.drain.reason
    if state.pause is not None:
        return "paused", state.pause.reason
    return "running", ""


def _tasks(state: AgentState, now: float) -> list[TaskView]:
    ordered = sorted(state.tasks.values(), key=lambda t: (t.record.order, t.task_id))
    cores = 0
    views = []
    for task in ordered:
        slot = ""
        if task.phase in ALIVE:
            needs = needs_of(task, state.bundles)
            if task.gpu >= 0:
                slot = f"GPU {task.gpu}"
            elif task.phase != "paused":
                slot = f"core {cores}"
                cores += needs.cpu_cores
        views.append(_task(state, task, slot, now))
    return views


def _task(state: AgentState, task: TaskState, slot: str, now: float) -> TaskView:
    elapsed = ran_seconds(task, now)
    bundle = state.bundles.get(task.record.grant.sha256)
    names = {"granted": "queued" if task.record.accepted else "fetching"}
    left = None
    if task.phase in ("running", "paused"):
        expected = task_seconds(task, state.bundles, state.durations)
        if task.progress > 0.02:  # the experiment's own word is better than any record
            expected = elapsed / task.progress
        left = max(0.0, expected - elapsed)
    reason = bundle.problem if bundle and task.phase == "granted" else ""
    return TaskView(
        task_id=task.task_id,
        experiment=task.record.grant.experiment,
        version=task.record.grant.version,
        state=names.get(task.phase, task.phase),  # type: ignore[arg-type]
        device=task.record.grant.device,
        slot=slot,
        progress=task.progress,
        elapsed_seconds=task.record.elapsed_seconds + elapsed,
        left_seconds=left,
        attempts=task.record.attempts,
        outcome=task.outcome,
        reason=reason,
    )


def _slots(state: AgentState, tasks: list[TaskView]) -> list[SlotView]:
    busy = {task.slot: task.task_id for task in tasks if task.slot}
    idle = _why_idle(state)
    views = []
    for slot in room_now(state).slots:
        task_id = busy.get(slot.name)
        reason = "" if task_id is not None else slot.reason or idle
        views.append(SlotView(name=slot.name, task_id=task_id, reason=reason))
    return views


def _why_idle(state: AgentState) -> str:
    """Why a slot that may be used runs nothing."""
    exchange = state.exchange
    if passed_over := allocation_now(state).passed_over:
        return f"free: {passed_over}"
    if any(t.phase == "granted" for t in state.tasks.values()):
        return "free: fetching the experiment"
    if state.drain is not None:
        return f"free: draining ({state.drain.reason})"
    if exchange.problem:
        return f"free: no contact: {exchange.problem}"
    if exchange.dry:
        return f"free: {exchange.no_work_reason or 'the server has no work for this host'}"
    return "free: asking the server for work"
