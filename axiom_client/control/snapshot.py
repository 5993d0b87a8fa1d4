"""The snapshot: the agent's state as people and programs see it. Every display is made from it."""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct

from axiom_client.decide.account import describe, known_modes, origin_of
from axiom_client.decide.allocate import needs_of, task_seconds
from axiom_client.decide.idle import in_order, slot_names, slot_reasons, state_and_reason
from axiom_client.decide.model import NEVER, AgentState, Slot, TaskState
from axiom_client.decide.place import ran_seconds, room_now
from axiom_client.decide.sync import credit_today
from axiom_client.decide.task import WAITING
from axiom_protocol import __version__
from axiom_protocol.messages import Credit, Outcome

State = Literal["running", "paused", "draining", "stopping", "held up", "not running"]
PROGRESS_MIN = 0.02  # from here on, an experiment's own progress gives the better estimate


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


class AccountView(Struct, frozen=True, kw_only=True):
    """The settings of the owner's account and of the chosen mode, in words.

    set       who set ``limits`` and when: "set by your account on 2026-11-27"; empty: nothing
    refused   the config (account.control) keeps the account's settings out
    mode      chosen on this host; ``mode_of_account``: chosen on the account's pages
    modes     all that can be chosen here, with their limits
    """

    set: str = ""
    limits: list[str] = []
    refused: bool = False
    mode_of_account: str = ""
    mode: str = ""
    mode_limits: list[str] = []
    modes: dict[str, list[str]] = {}


class Snapshot(Struct, frozen=True, kw_only=True):
    """The agent's state at one moment. Durations count from that moment."""

    state: State
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
    account: AccountView = AccountView()
    version: str = ""  # of the agent
    updates: list[str] = []  # what is staged or was undone, one line each


def snapshot(
    state: AgentState,
    who: Membership,
    now: float,
    *,
    held_up: str = "",
    running: bool = True,
    traffic: Traffic | None = None,
    updates: list[str] | None = None,
) -> Snapshot:
    """The agent's state at ``now``, monotonic seconds.

    updates  what is staged or was undone, in words
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
        notices=[*([state.incident.text] if state.incident else []), *sync.notices],
        account=_account(state),
        version=__version__,
        updates=updates or [],
    )


def _state_and_reason(state: AgentState, held_up: str, running: bool) -> tuple[State, str]:
    if not running:
        return "not running", "start it with: axiom-client run"
    if held_up:
        return "held up", held_up
    return state_and_reason(state)


def _account(state: AgentState) -> AccountView:
    account, mode = state.account, known_modes(state).get(state.mode)
    words = (
        [word for settings in account.settings for word in describe(settings, state.control)]
        if account
        else []
    )
    return AccountView(
        set=origin_of(account, state.utc_offset_seconds) if account and words else "",
        limits=words,
        mode_of_account=account.mode if account else "",
        refused=not state.control.enabled,
        mode=state.mode,
        mode_limits=describe(mode) if mode else [],
        modes={name: describe(settings) for name, settings in sorted(known_modes(state).items())},
    )


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
    held = slot_names(state)
    return [_task(state, task, held.get(task.task_id, []), now) for task in in_order(state)]


def _joined(slots: list[str]) -> str:
    """Slot names in short, such as "cores 2-5"."""
    if len(slots) > 1 and slots[0].startswith("core "):
        return f"cores {slots[0].split()[1]}-{slots[-1].split()[1]}"
    return ", ".join(slots)


def _task(state: AgentState, task: TaskState, slots: list[str], now: float) -> TaskView:
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
        slot=_joined(slots),
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
    return [
        _slot(state, slot, held, reason)
        for slot, held, reason in slot_reasons(state, stopped_reason)
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
