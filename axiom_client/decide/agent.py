"""The agent's state machine: step(state, event) -> (state, commands).

Each handler only records what happened. ``plan`` then decides from the whole state which task
starts, what to request from the server and when to wake, so that no order of events can leave
something undone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from axiom_client.decide import bundle_events, requests, take_up, task_events
from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.account import update_limits
from axiom_client.decide.cohort import other_members
from axiom_client.decide.model import (
    NEVER,
    AgentState,
    Incident,
    TaskRecord,
    TaskState,
)
from axiom_client.decide.plan import plan
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.sync import handle_answer, handle_failure
from axiom_client.decide.task import GRACE_SECONDS
from axiom_protocol.messages import GpuFacts, HostFacts
from axiom_protocol.text import counted

SLEEP_SECONDS = 60.0  # a larger step of the wall clock against the monotonic one is a sleep
INCIDENT_SECONDS = 7 * 86_400.0  # how long displays show an incident


def step(state: AgentState, event: e.Event) -> tuple[AgentState, list[c.Command]]:
    """The state after ``event``, and the commands to perform. ``state`` itself is not changed."""
    if isinstance(event, e.AgentStarted):
        state = AgentState()  # a new run: all that it needs of earlier runs is in the event
    builder = StepBuilder(state, event.now)
    _HANDLERS[type(event)](builder, event)
    if not isinstance(event, _DISPLAY_ONLY):
        plan(builder)
    return builder.state, builder.ordered()


# --- start and facts ------------------------------------------------------------------------------


def _agent_started(builder: StepBuilder, event: e.AgentStarted) -> None:
    state = builder.state
    state.wall_offset = event.wall - event.now
    state.instance = event.instance
    state.utc_offset_seconds = event.utc_offset_seconds
    state.own_limits, state.control = event.limits, event.control
    state.account, state.mode, state.modes = event.account, event.mode, dict(event.modes)
    update_limits(state)
    state.pause = event.pause
    state.gpu_pauses = dict(event.gpu_pauses)
    state.credit_day = event.credit_day
    _recall_incident(builder, event.incident)
    state.drain = event.drain
    state.durations = dict(event.durations)
    state.kept = {kept.task_id: kept for kept in event.kept}
    state.epoch = event.epoch
    state.sync.unanswered = event.unanswered
    state.sync.credit = event.credit
    state.until_idle = event.until_idle
    state.stop_at = NEVER if event.seconds is None else event.now + event.seconds
    _take_up(builder, event.tasks, event.reports)
    if event.tasks:
        builder.log(f"{counted(len(event.tasks), 'task')} kept from the last run of the agent")
    state.probed_at = event.now
    builder.do(c.ProbeHost())


def _take_up(
    builder: StepBuilder, records: list[TaskRecord], reports: list[e.WaitingReport]
) -> None:
    """Add the tasks of the journal to the state; those with a report have ended."""
    state = builder.state
    outcomes = {report.task_id: report for report in reports}
    for record in sorted(records, key=lambda r: r.order):
        task = TaskState(record=record)
        if report := outcomes.get(task.task_id):
            task = msgspec.structs.replace(
                task, phase="ended", outcome=report.outcome, report_bytes=report.size_bytes
            )
            state.reports_since = state.now
        builder.put(task)
        state.next_order = max(state.next_order, record.order + 1)


def _tasks_reloaded(builder: StepBuilder, event: e.TasksReloaded) -> None:
    _take_up(builder, event.tasks, event.reports)


def _recall_incident(builder: StepBuilder, incident: Incident | None) -> None:
    """Log an earlier incident and keep it for displays, until INCIDENT_SECONDS have passed."""
    if incident is None:
        return
    if builder.state.wall - incident.wall > INCIDENT_SECONDS:
        builder.save_value("incident", None)
        return
    builder.state.incident = incident
    builder.log(incident.text, "warning")


def _clock_changed(builder: StepBuilder, event: e.ClockChanged) -> None:
    """Keep the difference of the clocks. After a sleep, leases may have ended: ask the server."""
    slept_seconds = event.wall - event.now - builder.state.wall_offset
    if slept_seconds >= SLEEP_SECONDS and builder.state.tasks:
        builder.state.sync.wanted_now = True
    builder.state.wall_offset = event.wall - event.now
    builder.state.utc_offset_seconds = event.utc_offset_seconds


def _facts_probed(builder: StepBuilder, event: e.FactsProbed) -> None:
    state = builder.state
    known = state.sync.facts_known_to_server
    if state.facts is not None:
        _renumber(builder, state.facts.gpus, event.facts.gpus)
    state.gpus_known = state.gpus_known or event.gpus_known
    state.gpu_problems = event.gpu_problems
    state.facts = event.facts
    if known is not None and _differs(known, event.facts):
        state.sync.wanted_now = True


def _renumber(builder: StepBuilder, before: list[GpuFacts], after: list[GpuFacts]) -> None:
    """Keep tasks on the GPUs that they run on when a GPU's number changes; -1 when it is gone."""
    if [gpu.uuid for gpu in before] == [gpu.uuid for gpu in after]:
        return
    numbers = {gpu.uuid: index for index, gpu in enumerate(after)}
    for _, task in sorted(builder.state.tasks.items()):
        if task.gpus:
            gpus = [numbers.get(before[i].uuid, -1) if i >= 0 else -1 for i in task.gpus]
            builder.put(task, gpus=gpus)


def _differs(a: HostFacts, b: HostFacts) -> bool:
    """Whether any fact differs, except the free disk space, which changes all the time."""
    return bool(
        msgspec.structs.replace(a, disk_free_bytes=0)
        != msgspec.structs.replace(b, disk_free_bytes=0)
    )


def _load_measured(builder: StepBuilder, event: e.LoadMeasured) -> None:
    """When other programs need memory, stop the newest task: one at each measurement."""
    state = builder.state
    state.load = event.load
    available = event.load.memory_available_bytes
    if available is None or state.facts is None or state.stop is not None:
        return
    if available >= state.limits.memory_kept_bytes(state.facts.memory_bytes):
        return
    phases = {task.phase for task in state.tasks.values()}
    alive = [t for t in state.tasks.values() if t.phase in ("running", "paused")]
    if alive and "stopping" not in phases:
        latest = max(alive, key=lambda t: (t.record.order, t.task_id))
        for task in (latest, *other_members(latest, state.tasks)):
            builder.advance(task, "stop", keep=True)
        builder.do(c.StopTask(task_id=latest.process_id, grace_seconds=GRACE_SECONDS))
        builder.log(
            f"task {latest.task_id} of {latest.ref} is stopped until later: memory is short",
            "warning",
        )


def _config_changed(builder: StepBuilder, event: e.ConfigChanged) -> None:
    builder.state.own_limits, builder.state.control = event.limits, event.control
    update_limits(builder.state)
    builder.state.sync.wanted_now = True  # the account's pages show what is in force
    builder.state.measured_at = -NEVER  # the new limits may need another measurement, at once


def _timer_fired(builder: StepBuilder, event: e.TimerFired) -> None:
    builder.state.wake_at = NEVER
    if event.now >= builder.state.stop_at:
        builder.state.stop_at = NEVER
        requests.stop(builder, "the time given by --seconds is over", hurry=False)


# --- the server -----------------------------------------------------------------------------------


def _sync_answered(builder: StepBuilder, event: e.SyncAnswered) -> None:
    for task_id in handle_answer(builder, event.answer):
        if task := builder.state.tasks.get(task_id):
            builder.log(f"task {task_id} of {task.ref} is cancelled by the server")
            task_events.cancel(builder, task, "cancelled by the server")


def _sync_failed(builder: StepBuilder, event: e.SyncFailed) -> None:
    handle_failure(builder, event)
    if event.fatal:
        builder.state.exited = True
        fault: Literal["restored", "refused"] = "restored" if event.restored else "refused"
        builder.do(c.Exit(reason=event.problem, fault=fault))


#: Shown to people only. No decision depends on these events, and hundreds may come in a second, so
#: they do not lead to a new plan.
_DISPLAY_ONLY = (e.TaskStarted, e.TaskProgressed)

_HANDLERS: dict[type, Callable[[StepBuilder, Any], None]] = {
    e.AgentStarted: _agent_started,
    e.ClockChanged: _clock_changed,
    e.FactsProbed: _facts_probed,
    e.LoadMeasured: _load_measured,
    e.TimerFired: _timer_fired,
    e.SyncAnswered: _sync_answered,
    e.SyncFailed: _sync_failed,
    e.TasksReloaded: _tasks_reloaded,
    e.BundleFetched: bundle_events.bundle_fetched,
    e.BundleRefused: bundle_events.bundle_refused,
    e.BundleFailed: bundle_events.bundle_failed,
    e.TaskStarted: task_events.task_started,
    e.TaskProgressed: task_events.task_progressed,
    e.TaskEnded: task_events.task_ended,
    e.PauseRequested: requests.pause_requested,
    e.ResumeRequested: requests.resume_requested,
    e.DrainRequested: requests.drain_requested,
    e.SyncRequested: requests.sync_requested,
    e.AbortRequested: requests.abort_requested,
    e.StopRequested: requests.stop_requested,
    e.ConfigChanged: _config_changed,
    e.ModeChosen: requests.mode_chosen,
    e.UpdateStaged: take_up.update_staged,
}
