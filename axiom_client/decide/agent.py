"""The whole agent: step(state, event) -> (state, commands).

Each handler only records what happened. What follows from it (which task starts, what is asked of
the server, when to wake) is then decided from the whole state by ``follow``, so that no order of
events can leave something undone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.model import (
    NEVER,
    AgentState,
    Bundle,
    Drain,
    Pause,
    Phase,
    Stop,
    TaskState,
)
from axiom_client.decide.plan import GRACE_SECONDS, follow
from axiom_client.decide.retry import retry_bundle, retry_task
from axiom_client.decide.step_builder import Turn
from axiom_client.decide.sync import answered, failed
from axiom_client.decide.task import ALIVE, WAITING
from axiom_protocol.messages import GpuFacts, HostFacts

STOP_SECONDS = 20.0  # systemd allows 90 and a shutdown often less; checkpoints take under a second
DURATION_WEIGHT = 0.3  # of the newest run in the host's own record of how long a bundle takes


def step(state: AgentState, event: e.Event) -> tuple[AgentState, list[c.Command]]:
    """The agent after ``event``, and what is to be done. The state handed in is left as it was."""
    if isinstance(event, e.AgentStarted):
        state = AgentState()  # another life: what it should know is in the event
    turn = Turn(state, event.now)
    _HANDLERS[type(event)](turn, event)
    if not isinstance(event, _QUIET):
        follow(turn)
    return turn.state, turn.ordered()


# --- start and facts ------------------------------------------------------------------------------


def _agent_started(turn: Turn, event: e.AgentStarted) -> None:
    state = turn.state
    state.wall_offset = event.wall - event.now
    state.instance = event.instance
    state.utc_offset_seconds = event.utc_offset_seconds
    state.limits = event.limits
    state.pause = event.pause
    state.gpu_pauses = dict(event.gpu_pauses)
    state.credit_day = event.credit_day
    state.drain = event.drain
    state.durations = dict(event.durations)
    state.exchange.unanswered = event.unanswered
    state.exchange.credit = event.credit
    state.until_idle = event.until_idle
    state.stop_at = NEVER if event.seconds is None else event.now + event.seconds
    state.busy_at = event.now
    outcomes = {report.task_id: report for report in event.reports}
    for record in sorted(event.tasks, key=lambda r: r.order):
        task = TaskState(record=record)
        if report := outcomes.get(task.task_id):
            task = msgspec.structs.replace(
                task, phase="ended", outcome=report.outcome, report_bytes=report.size_bytes
            )
            state.reports_since = event.now
        turn.put(task)
        state.next_order = max(state.next_order, record.order + 1)
    if event.tasks:
        turn.tell(f"{len(event.tasks)} tasks were in hand when the agent last ran")
    state.probed_at = event.now
    turn.do(c.ProbeHost())


def _clock_changed(turn: Turn, event: e.ClockChanged) -> None:
    turn.state.wall_offset = event.wall - event.now
    turn.state.utc_offset_seconds = event.utc_offset_seconds


def _facts_probed(turn: Turn, event: e.FactsProbed) -> None:
    state = turn.state
    known = state.exchange.facts_known_to_server
    if state.facts is not None:
        _renumber(turn, state.facts.gpus, event.facts.gpus)
    state.gpus_known = state.gpus_known or event.gpus_known
    state.gpu_problems = event.gpu_problems
    state.facts = event.facts
    if known is not None and _differs(known, event.facts):
        state.exchange.wanted_now = True


def _renumber(turn: Turn, before: list[GpuFacts], after: list[GpuFacts]) -> None:
    """Tasks stay on the GPUs that they began on, whatever number those have now."""
    if [gpu.uuid for gpu in before] == [gpu.uuid for gpu in after]:
        return
    numbers = {gpu.uuid: index for index, gpu in enumerate(after)}
    for _, task in sorted(turn.state.tasks.items()):
        if task.gpus:
            uuids = [before[i].uuid if i >= 0 else "" for i in task.gpus]
            turn.put(task, gpus=[numbers.get(uuid, -1) for uuid in uuids])


def _differs(a: HostFacts, b: HostFacts) -> bool:
    """Whether the server should hear of it at once; free disk space changes all the time."""
    return bool(
        msgspec.structs.replace(a, disk_free_bytes=0)
        != msgspec.structs.replace(b, disk_free_bytes=0)
    )


def _load_measured(turn: Turn, event: e.LoadMeasured) -> None:
    """Where memory is short for other programs, one task gives way at each look: the latest."""
    state = turn.state
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
        turn.advance(latest, "stop", keep=True)
        turn.do(c.StopTask(task_id=latest.task_id, grace_seconds=GRACE_SECONDS))
        turn.tell(f"task {latest.task_id} of {latest.ref} gives way: memory is short", "warning")


def _config_changed(turn: Turn, event: e.ConfigChanged) -> None:
    turn.state.limits = event.limits
    turn.state.measured_at = -NEVER  # other limits may need another look, and at once


def _timer_fired(turn: Turn, event: e.TimerFired) -> None:
    turn.state.wake_at = NEVER
    if event.now >= turn.state.stop_at:
        turn.state.stop_at = NEVER
        _stop(turn, "the time given to this run is over", hurry=False)


# --- bundles --------------------------------------------------------------------------------------


def _bundle_fetched(turn: Turn, event: e.BundleFetched) -> None:
    bundle = turn.state.bundles.get(event.sha256)
    if bundle is None:
        return
    turn.put_bundle(
        bundle,
        fetching=False,
        path=event.path,
        manifest=event.manifest,
        verified_at=event.now,
        attempts=0,
        problem="",
    )


def _bundle_refused(turn: Turn, event: e.BundleRefused) -> None:
    bundle = turn.state.bundles.get(event.sha256)
    if bundle is None:
        return
    turn.tell(f"{bundle.ref} is refused: {event.problem}", "error")
    for task in _tasks_of(turn, event.sha256, WAITING):
        turn.end(task, "failed", message=f"bundle refused: {event.problem}")
    _let_go(turn, bundle)


def _bundle_failed(turn: Turn, event: e.BundleFailed) -> None:
    bundle = turn.state.bundles.get(event.sha256)
    if bundle is None:
        return
    attempts = bundle.attempts + 1
    decision = retry_bundle(event.now, attempts, event.jitter)
    if decision is None:
        for task in _tasks_of(turn, event.sha256, frozenset({"granted"})):
            turn.give_back(task, f"{bundle.ref} could not be fetched: {event.problem}")
        _let_go(turn, bundle)
        return
    turn.put_bundle(
        bundle, fetching=False, attempts=attempts, retry_at=decision.at, problem=event.problem
    )
    turn.tell(f"{bundle.ref} could not be fetched: {event.problem}", "warning")


def _let_go(turn: Turn, bundle: Bundle) -> None:
    """Forget a bundle that was not verified again, unless a task that began before still runs it.

    Such a task may be put back and run once more; a new one asks for the bundle anew.
    """
    if _tasks_of(turn, bundle.sha256, ALIVE | WAITING):
        turn.put_bundle(bundle, fetching=False, verified_at=None, attempts=0)
    else:
        del turn.state.bundles[bundle.sha256]


def _tasks_of(turn: Turn, sha256: str, phases: frozenset[Phase]) -> list[TaskState]:
    return [
        task
        for _, task in sorted(turn.state.tasks.items())
        if task.phase in phases and task.record.grant.sha256 == sha256
    ]


# --- tasks ----------------------------------------------------------------------------------------


def _task_started(turn: Turn, event: e.TaskStarted) -> None:
    task = turn.state.tasks.get(event.task_id)
    if task and task.phase == "running":
        turn.put(task, running_since=event.now)


def _task_progressed(turn: Turn, event: e.TaskProgressed) -> None:
    task = turn.state.tasks.get(event.task_id)
    if task and task.phase in ALIVE:
        turn.put(task, progress=max(task.progress, event.fraction))


def _task_ended(turn: Turn, event: e.TaskEnded) -> None:
    task = turn.state.tasks.get(event.task_id)
    if task is None or task.phase not in ALIVE:
        return
    retry = retry_task(event.outcome, task.record.attempts, event.now, event.jitter)
    if (task.phase == "stopping" and task.keep and event.outcome == "cancelled") or retry:
        _put_back(turn, task, event, retry.at if retry else 0.0)
        return
    turn.end(
        task,
        event.outcome,
        message=event.message if event.outcome == "success" else task.message or event.message,
        elapsed_seconds=event.elapsed_seconds,
        cpu_seconds=event.cpu_seconds,
        peak_memory_bytes=event.peak_memory_bytes,
        result=event.result if event.outcome == "success" else None,
        size_bytes=event.size_bytes,
    )
    seconds = task.record.elapsed_seconds + event.elapsed_seconds
    if event.outcome == "success":
        _remember_duration(turn, task.ref, seconds)
        turn.tell(f"task {task.task_id} of {task.ref} is done after {seconds:.1f} s")
    else:
        why = event.message.strip().splitlines()[-1:] or [""]
        turn.tell(f"task {task.task_id} of {task.ref}: {event.outcome}: {why[0]}", "warning")


def _put_back(turn: Turn, task: TaskState, event: e.TaskEnded, retry_at: float) -> None:
    record = msgspec.structs.replace(
        task.record,
        elapsed_seconds=task.record.elapsed_seconds + event.elapsed_seconds,
        cpu_seconds=task.record.cpu_seconds + event.cpu_seconds,
    )
    turn.save(record)
    turn.advance(task, "put_back", record=record, keep=False, gpus=[], retry_at=retry_at)
    turn.tell(f"task {task.task_id} of {task.ref} will go on later")


def _remember_duration(turn: Turn, ref: str, seconds: float) -> None:
    old = turn.state.durations.get(ref, seconds)
    turn.state.durations[ref] = old + DURATION_WEIGHT * (seconds - old)
    turn.keep_value("durations", dict(sorted(turn.state.durations.items())))


def cancel(turn: Turn, task: TaskState, reason: str) -> None:
    """End a task that is no longer wanted, wherever it stands."""
    if task.phase in WAITING:
        turn.end(task, "cancelled", message=reason)
    elif task.phase in ("running", "paused"):
        turn.advance(task, "stop", keep=False)
        turn.do(c.StopTask(task_id=task.task_id, grace_seconds=GRACE_SECONDS))


# --- the server -----------------------------------------------------------------------------------


def _sync_answered(turn: Turn, event: e.SyncAnswered) -> None:
    for task_id in answered(turn, event.answer):
        if task := turn.state.tasks.get(task_id):
            turn.tell(f"task {task_id} of {task.ref} is cancelled by the server")
            cancel(turn, task, "cancelled by the server")


def _sync_failed(turn: Turn, event: e.SyncFailed) -> None:
    failed(turn, event)
    if event.fatal:
        turn.state.exited = True
        turn.do(c.Exit(reason=event.problem, fault="refused"))


# --- people ---------------------------------------------------------------------------------------


def _pause_requested(turn: Turn, event: e.PauseRequested) -> None:
    state = turn.state
    until = None if event.for_seconds is None else state.wall + event.for_seconds
    pause = Pause(reason=event.reason, until_wall=until)
    if event.gpu is None:
        state.pause = pause
        turn.keep_value("pause", pause)
    elif (uuid := _gpu_uuid(state, event.gpu)) is not None:
        state.gpu_pauses[uuid] = pause
        turn.keep_value("gpu_pauses", state.gpu_pauses)
    turn.tell(event.reason if event.gpu is None else f"GPU {event.gpu}: {event.reason}")


def _gpu_uuid(state: AgentState, index: int) -> str | None:
    gpus = state.facts.gpus if state.facts else []
    return gpus[index].uuid if 0 <= index < len(gpus) else None


def _resume_requested(turn: Turn, event: e.ResumeRequested) -> None:
    state = turn.state
    if event.gpu is not None:
        if state.gpu_pauses.pop(_gpu_uuid(state, event.gpu) or "", None) is not None:
            turn.keep_value("gpu_pauses", state.gpu_pauses)
        turn.tell(f"GPU {event.gpu} resumed")
        return
    if state.pause is not None:
        state.pause = None
        turn.keep_value("pause", None)
    if state.gpu_pauses:
        state.gpu_pauses.clear()
        turn.keep_value("gpu_pauses", None)
    if state.drain is not None:
        state.drain = None
        state.exchange.dry = False
        turn.keep_value("drain", None)
    turn.tell("resumed")


def _drain_requested(turn: Turn, event: e.DrainRequested) -> None:
    state = turn.state
    seconds = event.deadline_seconds
    state.drain = Drain(
        reason=event.reason,
        then=event.then,
        deadline_wall=None if seconds is None else state.wall + seconds,
    )
    turn.keep_value("drain", state.drain)
    state.exchange.wanted_now = True
    turn.tell(f"draining: {event.reason}")


def _sync_requested(turn: Turn, event: e.SyncRequested) -> None:
    exchange = turn.state.exchange
    exchange.wanted_now = True
    exchange.not_before = 0.0
    exchange.dry = False


def _abort_requested(turn: Turn, event: e.AbortRequested) -> None:
    if task := turn.state.tasks.get(event.task_id):
        cancel(turn, task, "ended by the host's owner")


def _stop_requested(turn: Turn, event: e.StopRequested) -> None:
    _stop(turn, event.reason, hurry=event.hurry or turn.state.stop is not None)


def _stop(turn: Turn, reason: str, *, hurry: bool) -> None:
    """Checkpoint what runs and keep it, give back what has not begun, say so to the server, go."""
    state = turn.state
    first = state.stop is None
    state.stop = Stop(reason=reason, give_up_at=state.now if hurry else state.now + STOP_SECONDS)
    if not first:
        return
    turn.tell(f"stopping: {reason}")
    state.exchange.wanted_now = True
    state.exchange.not_before = 0.0
    for _, task in sorted(state.tasks.items()):
        if task.phase in ("running", "paused"):
            turn.advance(task, "stop", keep=True)
            turn.do(c.StopTask(task_id=task.task_id, grace_seconds=GRACE_SECONDS))
        elif task.phase in WAITING and task.record.attempts == 0:
            turn.give_back(task, "the agent stopped")


#: Only people look at these: no decision depends on them, and hundreds may come in a second.
_QUIET = (e.TaskStarted, e.TaskProgressed)

_HANDLERS: dict[type, Callable[[Turn, Any], None]] = {
    e.AgentStarted: _agent_started,
    e.ClockChanged: _clock_changed,
    e.FactsProbed: _facts_probed,
    e.LoadMeasured: _load_measured,
    e.TimerFired: _timer_fired,
    e.SyncAnswered: _sync_answered,
    e.SyncFailed: _sync_failed,
    e.BundleFetched: _bundle_fetched,
    e.BundleRefused: _bundle_refused,
    e.BundleFailed: _bundle_failed,
    e.TaskStarted: _task_started,
    e.TaskProgressed: _task_progressed,
    e.TaskEnded: _task_ended,
    e.PauseRequested: _pause_requested,
    e.ResumeRequested: _resume_requested,
    e.DrainRequested: _drain_requested,
    e.SyncRequested: _sync_requested,
    e.AbortRequested: _abort_requested,
    e.StopRequested: _stop_requested,
    e.ConfigChanged: _config_changed,
}
