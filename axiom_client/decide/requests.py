"""Handles the commands of people: pause, resume, drain, sync, abort a task, switch modes, stop."""

from __future__ import annotations

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.account import update_limits
from axiom_client.decide.model import NEVER, AgentState, Drain, Pause, Stop
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.task import GRACE_SECONDS
from axiom_client.decide.task_events import cancel

# Longest duration of an orderly stop. systemd allows 90 s, a shutdown often less; a checkpoint
# takes under a second.
STOP_SECONDS = 20.0


def pause_requested(builder: StepBuilder, event: e.PauseRequested) -> None:
    """Pause the host, or one of its GPUs."""
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


def resume_requested(builder: StepBuilder, event: e.ResumeRequested) -> None:
    """Resume one GPU, or everything: pauses and a drain."""
    state = builder.state
    if event.gpu is not None:
        uuid = _gpu_uuid(state, event.gpu)
        if uuid is not None and uuid in state.gpu_pauses:
            del state.gpu_pauses[uuid]
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


def drain_requested(builder: StepBuilder, event: e.DrainRequested) -> None:
    """Take no more tasks."""
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


def sync_requested(builder: StepBuilder, event: e.SyncRequested) -> None:
    """Contact the server now."""
    sync = builder.state.sync
    sync.wanted_now = True
    sync.not_before = builder.state.now
    sync.out_of_work = False


def abort_requested(builder: StepBuilder, event: e.AbortRequested) -> None:
    """Cancel one task."""
    if task := builder.state.tasks.get(event.task_id):
        cancel(builder, task, "ended by the host's owner")


def stop_requested(builder: StepBuilder, event: e.StopRequested) -> None:
    """Stop in an orderly way; at once on a second request."""
    stop(builder, event.reason, hurry=event.hurry or builder.state.stop is not None)


def stop(builder: StepBuilder, reason: str, *, hurry: bool, update: bool = False) -> None:
    """Begin to stop: running tasks write checkpoints. ``give_back_waiting`` handles the others.

    update   the agent is to be started again as another version
    """
    state = builder.state
    first = state.stop is None
    give_up_at = state.now if hurry else state.now + STOP_SECONDS
    state.stop = Stop(reason=reason, give_up_at=give_up_at, update=update)
    if not first:
        return
    builder.log(f"stopping: {reason}")
    state.sync.not_before = state.now
    for _, task in sorted(state.tasks.items()):
        if task.phase in ("running", "paused"):
            builder.advance(task, "stop", keep=True)
            builder.do(c.StopTask(task_id=task.process_id, grace_seconds=GRACE_SECONDS))


def mode_chosen(builder: StepBuilder, event: e.ModeChosen) -> None:
    """Switch into a mode, and save it when it is new or changed; an empty name ends the mode."""
    state = builder.state
    if event.mode and event.settings is not None:
        state.modes = {**state.modes, event.mode: event.settings}
        builder.save_value("modes", state.modes)
    state.mode = event.mode
    builder.save_value("mode", event.mode or None)
    update_limits(state)
    state.measured_at = -NEVER
    state.sync.wanted_now = True
    state.sync.out_of_work = False
    builder.log(f"switched to mode {event.mode}" if event.mode else "mode ended")
