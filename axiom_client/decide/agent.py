"""The agent's state machine: step(state, event) -> (state, commands).

Each handler only records what happened. What follows from it (which task starts, what is asked of
the server, when to wake) is then decided by ``plan`` from the whole state, so that no order of
events can leave something undone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.account import use_limits
from axiom_client.decide.allocate import duration_key
from axiom_client.decide.cohort import SHRINK, mates
from axiom_client.decide.model import (
    NEVER,
    AgentState,
    Bundle,
    Drain,
    Incident,
    Pause,
    Phase,
    Stop,
    TaskRecord,
    TaskState,
)
from axiom_client.decide.place import ran_seconds
from axiom_client.decide.plan import plan
from axiom_client.decide.retry import retry_bundle, retry_task
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.sync import handle_answer, handle_failure
from axiom_client.decide.task import ALIVE, GRACE_SECONDS, WAITING
from axiom_client.decide.task_run import TaskFinished
from axiom_protocol.messages import GpuFacts, HostFacts
from axiom_protocol.text import counted

# Most that an orderly stop takes. systemd allows 90 s, a shutdown often less; a checkpoint takes
# under a second.
STOP_SECONDS = 20.0
INCIDENT_SECONDS = 7 * 86_400.0  # how long people are told of an incident
DURATION_WEIGHT = 0.3  # of the newest run in the moving average of how long a bundle takes here


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
    use_limits(state)
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
    state.busy_at = event.now
    _take_up(builder, event.tasks, event.reports)
    if event.tasks:
        builder.log(f"{counted(len(event.tasks), 'task')} kept from the last run of the agent")
    state.probed_at = event.now
    builder.do(c.ProbeHost())


def _take_up(
    builder: StepBuilder, records: list[TaskRecord], reports: list[e.WaitingReport]
) -> None:
    """Take up tasks from the journal; those with a report have ended."""
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
    """Say in the log and to people what went wrong, for some days."""
    if incident is None:
        return
    if builder.state.wall - incident.wall > INCIDENT_SECONDS:
        builder.save_value("incident", None)
        return
    builder.state.incident = incident
    builder.log(incident.text, "warning")


def _clock_changed(builder: StepBuilder, event: e.ClockChanged) -> None:
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
            uuids = [before[i].uuid if i >= 0 else "" for i in task.gpus]
            builder.put(task, gpus=[numbers.get(uuid, -1) for uuid in uuids])


def _differs(a: HostFacts, b: HostFacts) -> bool:
    """Whether the server should know at once. Free disk space changes all the time: not that."""
    return bool(
        msgspec.structs.replace(a, disk_free_bytes=0)
        != msgspec.structs.replace(b, disk_free_bytes=0)
    )


def _load_measured(builder: StepBuilder, event: e.LoadMeasured) -> None:
    """When memory is short for other programs, stop the newest task, one at each measurement."""
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
        for task in (latest, *mates(latest, state.tasks)):
            builder.advance(task, "stop", keep=True)
        builder.do(c.StopTask(task_id=latest.process_id, grace_seconds=GRACE_SECONDS))
        builder.log(
            f"task {latest.task_id} of {latest.ref} is stopped until later: memory is short",
            "warning",
        )


def _config_changed(builder: StepBuilder, event: e.ConfigChanged) -> None:
    builder.state.own_limits, builder.state.control = event.limits, event.control
    use_limits(builder.state)
    builder.state.sync.wanted_now = True  # the account's pages show what is in force
    builder.state.measured_at = -NEVER  # the new limits may need another measurement, at once


def _mode_chosen(builder: StepBuilder, event: e.ModeChosen) -> None:
    state = builder.state
    if event.mode and event.settings is not None:
        state.modes = {**state.modes, event.mode: event.settings}
        builder.save_value("modes", state.modes)
    state.mode = event.mode
    builder.save_value("mode", event.mode or None)
    use_limits(state)
    state.measured_at = -NEVER
    state.sync.wanted_now = True
    state.sync.out_of_work = False
    builder.log(f"mode {event.mode}" if event.mode else "no mode")


def _timer_fired(builder: StepBuilder, event: e.TimerFired) -> None:
    builder.state.wake_at = NEVER
    if event.now >= builder.state.stop_at:
        builder.state.stop_at = NEVER
        _stop(builder, "the time given by --seconds is over", hurry=False)


# --- bundles --------------------------------------------------------------------------------------


def _bundle_fetched(builder: StepBuilder, event: e.BundleFetched) -> None:
    bundle = builder.state.bundles.get(event.sha256)
    if bundle is None:
        return
    builder.put_bundle(
        bundle,
        fetching=False,
        path=event.path,
        manifest=event.manifest,
        verified_at=event.now,
        attempts=0,
        problem="",
    )


def _bundle_refused(builder: StepBuilder, event: e.BundleRefused) -> None:
    bundle = builder.state.bundles.get(event.sha256)
    if bundle is None:
        return
    builder.log(f"{bundle.ref} is refused and not run: {event.problem}", "error")
    for task in _tasks_of(builder, event.sha256, WAITING):
        builder.end_without_run(task, "failed", f"bundle refused: {event.problem}")
    _forget_bundle(builder, bundle)


def _bundle_failed(builder: StepBuilder, event: e.BundleFailed) -> None:
    bundle = builder.state.bundles.get(event.sha256)
    if bundle is None:
        return
    attempts = bundle.attempts + 1
    decision = retry_bundle(event.now, attempts, event.jitter)
    if decision is None:
        for task in _tasks_of(builder, event.sha256, frozenset({"granted"})):
            builder.give_back(task, f"{bundle.ref} could not be fetched: {event.problem}")
        _forget_bundle(builder, bundle)
        return
    builder.put_bundle(
        bundle, fetching=False, attempts=attempts, retry_at=decision.at, problem=event.problem
    )
    builder.log(f"{bundle.ref} could not be fetched: {event.problem}", "warning")


def _forget_bundle(builder: StepBuilder, bundle: Bundle) -> None:
    """Forget a bundle that could not be verified again, unless a task still needs it.

    A task that was accepted before may go on with it; a new task makes the agent fetch it again.
    """
    if _tasks_of(builder, bundle.sha256, ALIVE | WAITING):
        builder.put_bundle(bundle, fetching=False, verified_at=None, attempts=0)
    else:
        del builder.state.bundles[bundle.sha256]


def _tasks_of(builder: StepBuilder, sha256: str, phases: frozenset[Phase]) -> list[TaskState]:
    return [
        task
        for _, task in sorted(builder.state.tasks.items())
        if task.phase in phases and task.record.grant.sha256 == sha256
    ]


# --- tasks ----------------------------------------------------------------------------------------


def _task_started(builder: StepBuilder, event: e.TaskStarted) -> None:
    task = builder.state.tasks.get(event.task_id)
    if task and task.phase == "running":
        builder.put(task, running_since=event.now)


def _task_progressed(builder: StepBuilder, event: e.TaskProgressed) -> None:
    task = builder.state.tasks.get(event.task_id)
    if task and task.phase in ALIVE:
        builder.put(task, progress=max(task.progress, event.fraction))


def _task_ended(builder: StepBuilder, event: e.TaskEnded) -> None:
    finished = event.finished
    task = builder.state.tasks.get(finished.task_id)
    if task is None or task.phase not in ALIVE:
        builder.do(c.ClearFolder(task_id=finished.task_id))  # kept while its cohort went on
        return
    if finished.shared and not (task.phase == "stopping" and not task.keep):
        _try_in_smaller(builder, task, finished)
        return
    retry = retry_task(finished.outcome, task.record.attempts, event.now, event.jitter)
    if task.phase == "stopping" and not task.keep:
        retry = None  # it was to end
    if retry is not None:
        _verify_again(builder, task)  # its script may be what was lost
    if (task.phase == "stopping" and task.keep and finished.outcome == "cancelled") or retry:
        _put_back(builder, task, finished, retry.at if retry else 0.0)
        return
    success = finished.outcome == "success"
    message = finished.message if success else task.message or finished.message
    result = finished.result if success else None
    builder.end(task, msgspec.structs.replace(finished, message=message, result=result))
    seconds = task.record.elapsed_seconds + finished.elapsed_seconds
    if success:
        _remember_duration(builder, duration_key(task), seconds * task.cohort_size)
        builder.log(f"task {task.task_id} of {task.ref} is done after {seconds:.1f} s")
    else:
        why = finished.message.strip().splitlines()[-1:] or [""]
        builder.log(
            f"task {task.task_id} of {task.ref} ended: {finished.outcome}: {why[0]}", "warning"
        )


def _verify_again(builder: StepBuilder, task: TaskState) -> None:
    bundle = builder.state.bundles.get(task.record.grant.sha256)
    if bundle is None or bundle.fetching:
        return
    builder.put_bundle(bundle, fetching=True)
    builder.do(
        c.FetchBundle(
            experiment=bundle.experiment, version=bundle.version, sha256=bundle.sha256,
            accepted=True,
        )
    )  # fmt: skip


def _try_in_smaller(builder: StepBuilder, task: TaskState, finished: TaskFinished) -> None:
    """Run a task again in a smaller cohort: another member may have ended the process."""
    most = max(1, task.cohort_size // SHRINK)
    words = f"a cohort of {task.cohort_size} ended: {finished.outcome}; at most {most} together now"
    builder.log(f"task {task.task_id} of {task.ref}: {words}", "warning")
    record = msgspec.structs.replace(task.record, cohort_most=most)
    _put_back(builder, msgspec.structs.replace(task, record=record), finished, 0.0)


def _put_back(
    builder: StepBuilder, task: TaskState, finished: TaskFinished, retry_at: float
) -> None:
    record = msgspec.structs.replace(
        task.record,
        elapsed_seconds=task.record.elapsed_seconds + finished.elapsed_seconds,
        cpu_seconds=task.record.cpu_seconds + finished.cpu_seconds,
    )
    builder.save(record)
    builder.advance(
        task, "put_back", record=record, keep=False, gpus=[], retry_at=retry_at, cohort=0,
        cohort_size=1,
    )  # fmt: skip
    builder.log(f"task {task.task_id} of {task.ref} is stopped until later")


def _remember_duration(builder: StepBuilder, key: str, seconds: float) -> None:
    old = builder.state.durations.get(key, seconds)
    builder.state.durations[key] = old + DURATION_WEIGHT * (seconds - old)
    builder.save_value("durations", dict(sorted(builder.state.durations.items())))


def cancel(builder: StepBuilder, task: TaskState, reason: str) -> None:
    """Cancel a task in whichever phase it is: stop its process, or report it unrun."""
    if task.phase in WAITING:
        builder.end_without_run(task, "cancelled", reason)
    elif task.phase in ("running", "paused") and mates(task, builder.state.tasks):
        _leave_cohort(builder, task, reason)
    elif task.phase in ("running", "paused"):
        builder.advance(task, "stop", keep=False)
        builder.do(c.StopTask(task_id=task.process_id, grace_seconds=GRACE_SECONDS))


def _leave_cohort(builder: StepBuilder, task: TaskState, reason: str) -> None:
    """Report a member cancelled at once. The others go on, so its folder stays until they end."""
    seconds = ran_seconds(task, builder.state.now) / task.cohort_size
    finished = TaskFinished(
        task_id=task.task_id, outcome="cancelled", message=reason, elapsed_seconds=seconds
    )
    builder.end(task, finished, keep_folder=True)


# --- the server -----------------------------------------------------------------------------------


def _sync_answered(builder: StepBuilder, event: e.SyncAnswered) -> None:
    for task_id in handle_answer(builder, event.answer):
        if task := builder.state.tasks.get(task_id):
            builder.log(f"task {task_id} of {task.ref} is cancelled by the server")
            cancel(builder, task, "cancelled by the server")


def _sync_failed(builder: StepBuilder, event: e.SyncFailed) -> None:
    handle_failure(builder, event)
    if event.fatal:
        builder.state.exited = True
        fault: Literal["restored", "refused"] = "restored" if event.restored else "refused"
        builder.do(c.Exit(reason=event.problem, fault=fault))


# --- people ---------------------------------------------------------------------------------------


def _pause_requested(builder: StepBuilder, event: e.PauseRequested) -> None:
    state = builder.state
    until = None if event.for_seconds is None else state.wall + event.for_seconds
    pause = Pause(reason=event.reason, until_wall=until)
    if event.gpu is None:
        state.pause = pause
        builder.save_value("pause", pause)
    elif (uuid := _gpu_uuid(state, event.gpu)) is not None:
        state.gpu_pauses[uuid] = pause
        builder.save_value("gpu_pauses", state.gpu_pauses)
    builder.log(event.reason if event.gpu is None else f"GPU {event.gpu}: {event.reason}")


def _gpu_uuid(state: AgentState, index: int) -> str | None:
    gpus = state.facts.gpus if state.facts else []
    return gpus[index].uuid if 0 <= index < len(gpus) else None


def _resume_requested(builder: StepBuilder, event: e.ResumeRequested) -> None:
    state = builder.state
    if event.gpu is not None:
        if state.gpu_pauses.pop(_gpu_uuid(state, event.gpu) or "", None) is not None:
            builder.save_value("gpu_pauses", state.gpu_pauses)
        builder.log(f"GPU {event.gpu} resumed")
        return
    if state.pause is not None:
        state.pause = None
        builder.save_value("pause", None)
    if state.gpu_pauses:
        state.gpu_pauses.clear()
        builder.save_value("gpu_pauses", None)
    if state.drain is not None:
        state.drain = None
        state.sync.out_of_work = False
        builder.save_value("drain", None)
    builder.log("resumed")


def _drain_requested(builder: StepBuilder, event: e.DrainRequested) -> None:
    state = builder.state
    seconds = event.deadline_seconds
    state.drain = Drain(
        reason=event.reason,
        then=event.then,
        deadline_wall=None if seconds is None else state.wall + seconds,
    )
    builder.save_value("drain", state.drain)
    state.sync.wanted_now = True
    builder.log(f"draining: {event.reason}")


def _sync_requested(builder: StepBuilder, event: e.SyncRequested) -> None:
    sync = builder.state.sync
    sync.wanted_now = True
    sync.not_before = 0.0
    sync.out_of_work = False


def _abort_requested(builder: StepBuilder, event: e.AbortRequested) -> None:
    if task := builder.state.tasks.get(event.task_id):
        cancel(builder, task, "ended by the host's owner")


def _stop_requested(builder: StepBuilder, event: e.StopRequested) -> None:
    _stop(builder, event.reason, hurry=event.hurry or builder.state.stop is not None)


def _stop(builder: StepBuilder, reason: str, *, hurry: bool) -> None:
    """Begin to stop: tasks that run keep a checkpoint, tasks not yet begun are given back."""
    state = builder.state
    first = state.stop is None
    state.stop = Stop(reason=reason, give_up_at=state.now if hurry else state.now + STOP_SECONDS)
    if not first:
        return
    builder.log(f"stopping: {reason}")
    state.sync.wanted_now = True
    state.sync.not_before = 0.0
    for _, task in sorted(state.tasks.items()):
        if task.phase in ("running", "paused"):
            builder.advance(task, "stop", keep=True)
            builder.do(c.StopTask(task_id=task.process_id, grace_seconds=GRACE_SECONDS))
        elif task.phase in WAITING and task.record.attempts == 0:
            builder.give_back(task, "the agent stopped")


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
    e.ModeChosen: _mode_chosen,
}
