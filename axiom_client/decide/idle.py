"""Why slots are idle and what the whole agent does, in words for people.

The local displays and the account's pages show the same words.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from axiom_client.decide.allocate import cores_with_memory, needs_of
from axiom_client.decide.blocked import blocked_text
from axiom_client.decide.capacity import Room
from axiom_client.decide.drain import drain_reason
from axiom_client.decide.model import AgentState, Drain, Slot, TaskState
from axiom_client.decide.place import allocation_now, room_now
from axiom_client.decide.schedule import moment
from axiom_client.decide.task import ALIVE
from axiom_protocol.messages import HostStatus, IdleSlots
from axiom_protocol.text import counted

SLOT_KINDS: tuple[Literal["cpu"], Literal["gpu"]] = ("cpu", "gpu")
RunState = Literal["running", "paused", "draining", "stopping"]
REASONS_MAX = 16  # in one request; a 240-core host has a handful
REASON_CHARACTERS_MAX = 200  # the protocol's limit for a text


def host_status(state: AgentState) -> HostStatus:
    """What the account's pages show of this host."""
    run_state, reason = state_and_reason(state)
    revision = state.account.revision if state.account else ""
    idle = Counter(reason for _, held, reason in slot_reasons(state) if not held)
    return HostStatus(
        state=run_state,
        reason=reason[:REASON_CHARACTERS_MAX],
        idle=[
            IdleSlots(slots=slots, reason=why[:REASON_CHARACTERS_MAX])
            for why, slots in sorted(idle.items(), key=lambda pair: (-pair[1], pair[0]))
        ][:REASONS_MAX],
        revision=revision,
        refuses=not state.control.enabled,
        mode=state.mode,
    )


def slot_reasons(state: AgentState, stopped_reason: str = "") -> list[tuple[Slot, list[int], str]]:
    """All slots, each with the tasks that hold it and why it runs nothing if none does.

    stopped_reason  why the whole agent does nothing; empty when it works
    """
    busy: dict[str, list[int]] = {}
    for task_id, names in slot_names(state).items():
        for name in names:
            busy.setdefault(name, []).append(task_id)
    room = room_now(state)
    idle = {kind: f"free: {stopped_reason or _why_idle(state, kind)}" for kind in SLOT_KINDS}
    usable = _cores_with_memory(state, room) if busy else len(room.cpu)
    return [
        (slot, busy.get(slot.name, []), _slot_reason(slot, usable, idle[slot.kind]))
        for slot in room.slots
    ]


def state_and_reason(state: AgentState) -> tuple[RunState, str]:
    """What the agent does, and why it is not simply running; empty when it is."""
    if state.stop is not None:
        return "stopping", state.stop.reason
    if state.drain is not None:
        return "draining", _drain_text(state, state.drain)
    if state.pause is not None:
        return "paused", state.pause.reason.removeprefix("paused: ")
    if state.facts is None:
        return "running", "starting"
    if reason := drain_reason(state):
        return "draining", reason
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


def in_order(state: AgentState) -> list[TaskState]:
    """The tasks in order of arrival."""
    return sorted(state.tasks.values(), key=lambda t: (t.record.order, t.task_id))


def slot_names(state: AgentState) -> dict[int, list[str]]:
    """The names of each task's slots. Tasks are not bound to cores: cores are just numbered."""
    cores = 0
    named: dict[int, list[str]] = {}
    for task in in_order(state):
        if task.phase not in ALIVE:
            continue
        needs = needs_of(task, state.bundles)
        if needs.gpus:
            named[task.task_id] = [f"GPU {i}" for i in task.gpus if i >= 0]
        elif task.cohort and task.cohort in named:
            named[task.task_id] = named[task.cohort]
        elif task.phase != "paused":
            named[task.task_id] = [f"core {i}" for i in range(cores, cores + needs.cpu_cores)]
            cores += needs.cpu_cores
    return named


def _slot_reason(slot: Slot, usable_cores: int, idle: str) -> str:
    """Why a slot runs nothing, if it does not."""
    if slot.kind == "cpu" and not slot.reason and slot.index >= usable_cores:
        return (
            "free: the memory that tasks may use (memory.share) is enough for "
            f"{counted(usable_cores, 'core')}"
        )
    return slot.reason or idle


def _cores_with_memory(state: AgentState, room: Room) -> int:
    """The number of usable cores that also have memory.

    All usable cores if a task was passed over, because its reason is then shown instead.
    """
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
    if reason := drain_reason(state):
        return f"draining ({reason})"
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
