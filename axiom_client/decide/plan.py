"""What follows from the state, decided afresh after every event: nothing can be left undone.

``follow`` is level-triggered: it looks at what is, not at what changed.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from axiom_client.decide import commands as c
from axiom_client.decide.allocate import (
    Allocation,
    allocate,
    cores_with_memory,
    needs_of,
    task_seconds,
)
from axiom_client.decide.binding import bind
from axiom_client.decide.blocked import changes_at, in_words, remember, rest_seconds
from axiom_client.decide.capacity import Room, room
from axiom_client.decide.fit import accept
from axiom_client.decide.model import NEVER, AgentState, Bundle, Pause, TaskState
from axiom_client.decide.step_builder import Turn
from axiom_client.decide.sync import asked, compose, due_at, hungry
from axiom_client.decide.task import ALIVE, WAITING
from axiom_protocol.manifest import Manifest

Environment = Literal["numpy", "torch"]
RELEASE_SECONDS = 120.0  # idle before the warm parents go: longer than a gap between batches
# Between looks at other programs, presence, heat and free space, while a limit depends on them.
MEASURE_SECONDS = 10.0
MEASURE_IDLE_SECONDS = 60.0  # and there is no work that would have to give way
GRACE_SECONDS = 5.0  # for a task to keep a checkpoint when it is asked to end
SERVER_FAILURES_MAX = 7  # in a row, some two minutes, before a run until idle gives up asking
PROBE_SECONDS = 600.0  # between looks for a changed host: a driver that loads after the service
TRUST_SECONDS = 3600.0  # a bundle verified this long ago is verified anew: it may be withdrawn
WALL_MARGIN = 10.0  # times the expected time before a task counts as hung: hosts differ that much
WALL_FLOOR_SECONDS = 300.0
CPU_MARGIN = 1.5  # processor time may exceed wall time only through several cores


def room_now(state: AgentState) -> Room:
    """The room for tasks as things stand."""
    return room(
        state.facts,
        state.load,
        state.limits,
        rest=f"stopping: {state.stop.reason}" if state.stop else in_words(state),
        gpu_pauses=state.gpu_pauses,
    )


def allocation_now(state: AgentState) -> Allocation:
    """Who would run where as things stand."""
    return _allocate(state, room_now(state))


def _allocate(state: AgentState, space: Room) -> Allocation:
    return allocate(state.tasks, state.bundles, space, state.now, state.measured_at)


def follow(turn: Turn) -> None:
    """Give every command that the state calls for."""
    if turn.state.exited:
        return
    _end_pauses(turn)
    _end_drain(turn)
    _give_back(turn)
    remember(turn.state)
    _fetch(turn)
    space = room_now(turn.state)
    _give_back_what_is_late(turn)
    _place(turn, space)
    _look_around(turn)
    _keep_warm(turn)
    _speak(turn, space)
    _leave(turn)
    _wake(turn, space)


def _end_pauses(turn: Turn) -> None:
    state = turn.state
    if state.pause is not None and _over(state.pause, state.wall):
        state.pause = None
        turn.keep_value("pause", None)
        turn.tell("the pause is over")
    for uuid, pause in sorted(state.gpu_pauses.items()):
        if _over(pause, state.wall):
            del state.gpu_pauses[uuid]
            turn.keep_value("gpu_pauses", state.gpu_pauses)
            turn.tell("the pause of a GPU is over")


def _over(pause: Pause, wall: float) -> bool:
    return pause.until_wall is not None and wall >= pause.until_wall


def _end_drain(turn: Turn) -> None:
    """At its deadline what still runs is ended; when nothing is in hand, what was to follow does"""
    state, drain = turn.state, turn.state.drain
    if drain is None or state.stop is not None:
        return
    late = _late(state)
    for _, task in sorted(state.tasks.items()):
        message = f"given back: {drain.reason}, and the deadline has come"
        if late and task.phase in ("running", "paused"):
            turn.advance(task, "stop", keep=False, message=message)
            turn.do(c.StopTask(task_id=task.task_id, grace_seconds=GRACE_SECONDS))
        elif late and task.phase in WAITING:
            turn.end(task, "cancelled", message=message)
    if drain.then == "pause" and not _anything_open(state):
        state.pause, state.drain = Pause(reason=f"paused: drained, {drain.reason}"), None
        turn.keep_value("pause", state.pause)
        turn.keep_value("drain", None)
        turn.tell(state.pause.reason)


def _late(state: AgentState) -> bool:
    """Whether a drain's deadline has come."""
    drain = state.drain
    return (
        drain is not None and drain.deadline_wall is not None and state.wall >= drain.deadline_wall
    )


def _anything_open(state: AgentState) -> bool:
    """Whether the server has still to hear of anything, or this host to do it."""
    exchange = state.exchange
    return bool(state.tasks or exchange.in_flight or exchange.unanswered or exchange.wanted_now)


def _give_back(turn: Turn) -> None:
    state = turn.state
    if state.drain is None and state.stop is None:
        return
    reason = state.drain.reason if state.drain else "the agent stopped"
    for _, task in sorted(state.tasks.items()):
        if task.phase in WAITING and task.record.attempts == 0:
            turn.give_back(task, reason)


def _give_back_what_is_late(turn: Turn) -> None:
    """A task that cannot be done here before its lease ends is better done elsewhere, from now.

    A rest counts with what is known of its length; one without an end may be over in a minute.
    """
    state = turn.state
    ordered = sorted(state.tasks.values(), key=lambda t: (t.record.order, t.task_id))
    ahead = 0.0  # seconds of one core that come before
    cores = max(1, cores_with_memory(state.tasks, state.bundles, _room_without_rest(state)))
    begin = state.wall + rest_seconds(state)
    for task in ordered:
        if task.phase == "ended":
            continue
        seconds = task_seconds(task, state.bundles, state.durations)
        needs = needs_of(task, state.bundles)
        done_at = begin + (0.0 if needs.gpus else ahead / cores) + seconds
        if (
            task.phase in WAITING
            and not task.record.attempts
            and task.record.lease_until_wall < done_at
        ):
            turn.give_back(task, "it could not be done here before its deadline")
        elif not needs.gpus:
            left = seconds if task.phase in WAITING else seconds - ran_seconds(task, state.now)
            ahead += max(0.0, left) * needs.cpu_cores


def _room_without_rest(state: AgentState) -> Room:
    return room(state.facts, state.load, state.limits, gpu_pauses=state.gpu_pauses)


# --- bundles and placing --------------------------------------------------------------------------


def _fetch(turn: Turn) -> None:
    state = turn.state
    if state.stop is not None:
        return
    for _, task in sorted(state.tasks.items()):
        grant = task.record.grant
        if task.phase != "granted" or (grant.device == "gpu" and not state.gpus_known):
            continue
        bundle = state.bundles.get(grant.sha256) or Bundle(
            experiment=grant.experiment, version=grant.version, sha256=grant.sha256
        )
        at = bundle.verified_at
        fresh = at is not None and state.now - at < TRUST_SECONDS
        if (fresh or task.record.accepted) and bundle.path and bundle.manifest is not None:
            accept(turn, task, bundle.manifest)
            continue
        if not bundle.fetching and bundle.retry_at <= state.now:
            turn.put_bundle(bundle, fetching=True)
            turn.do(
                c.FetchBundle(
                    experiment=grant.experiment,
                    version=grant.version,
                    sha256=grant.sha256,
                    accepted=task.record.accepted,
                )
            )


def _place(turn: Turn, space: Room) -> None:
    state = turn.state
    if state.stop is not None:
        return
    for _, task in sorted(state.tasks.items()):
        if -1 in task.gpus and task.phase in ("running", "paused"):  # its GPU is gone
            turn.advance(task, "stop", keep=True)
            turn.do(c.StopTask(task_id=task.task_id, grace_seconds=GRACE_SECONDS))
    allocation = _allocate(state, space)
    for task_id in allocation.pause:
        task = state.tasks[task_id]
        turn.advance(task, "pause", ran_seconds=ran_seconds(task, state.now))
        turn.do(c.PauseTask(task_id=task_id))
    for task_id in allocation.resume:
        turn.advance(state.tasks[task_id], "resume", running_since=state.now)
        turn.do(c.ResumeTask(task_id=task_id))
    for task_id, gpus in allocation.start:
        _start(turn, state.tasks[task_id], gpus)


def ran_seconds(task: TaskState, now: float) -> float:
    """How long this run of a task has gone on, pauses not counted."""
    if task.phase in ("running", "stopping"):
        return task.ran_seconds + max(0.0, now - task.running_since)
    return task.ran_seconds


def _start(turn: Turn, task: TaskState, gpus: list[int]) -> None:
    state = turn.state
    record = msgspec.structs.replace(task.record, attempts=task.record.attempts + 1)
    bundle = state.bundles[record.grant.sha256]
    turn.save(record)
    turn.advance(
        task,
        "start",
        record=record,
        gpus=gpus,
        progress=0.0,
        ran_seconds=0.0,
        running_since=state.now,
    )
    assert bundle.manifest is not None  # it came together with the path that made the task ready
    turn.do(_start_command(state, task, bundle, bundle.manifest, gpus))
    state.warm = True


def _start_command(
    state: AgentState, task: TaskState, bundle: Bundle, manifest: Manifest, gpus: list[int]
) -> c.StartTask:
    grant = task.record.grant
    needs = needs_of(task, state.bundles)
    expected = max(manifest.expected_seconds, grant.budget_seconds)
    wall_seconds = max(WALL_FLOOR_SECONDS, WALL_MARGIN * expected)
    return c.StartTask(
        task_id=grant.task_id,
        experiment=grant.experiment,
        source_path=bundle.path,
        sha256=grant.sha256,
        environment=manifest.environment,
        parameters=bind(grant, manifest),
        seed=grant.seed,
        budget_seconds=grant.budget_seconds,
        memory_bytes=needs.memory_bytes,
        disk_bytes=needs.disk_bytes,
        cpu_seconds=CPU_MARGIN * wall_seconds * needs.cpu_cores,
        wall_seconds=wall_seconds,
        gpus=[state.facts.gpus[i] for i in gpus] if state.facts else [],
    )


# --- looking around and staying warm --------------------------------------------------------------


def look_for(state: AgentState) -> c.MeasureLoad | None:
    """What must be looked at now and then for the limits to be kept; None: nothing."""
    limits = state.limits
    battery = state.load.has_battery and not limits.on_battery
    has_work = any(t.phase != "ended" for t in state.tasks.values())
    look = c.MeasureLoad(
        others=bool(limits.other_load_share),
        presence=battery or not limits.while_in_use,
        heat=bool(limits.temperature_max),
        programs=list(limits.exclusive),
        space=has_work and bool(limits.memory_keep_free or limits.disk_keep_free),
    )
    return look if look != c.MeasureLoad() else None


def _look_again_at(state: AgentState) -> float:
    """When the next look is due. With no work in hand a look only tells whether to ask for some."""
    if look_for(state) is None:
        return NEVER
    has_work = any(t.phase != "ended" for t in state.tasks.values())
    return state.measured_at + (MEASURE_SECONDS if has_work else MEASURE_IDLE_SECONDS)


def _look_around(turn: Turn) -> None:
    state = turn.state
    if state.measured_at == -NEVER:
        state.measured_at = state.now
        look = look_for(state) or c.MeasureLoad()
        turn.do(msgspec.structs.replace(look, presence=True, space=True))  # is there a battery?
    elif state.now >= _look_again_at(state):
        state.measured_at = state.now
        turn.do(look_for(state) or c.MeasureLoad())
    if state.now >= state.probed_at + PROBE_SECONDS:
        state.probed_at = state.now
        turn.do(c.ProbeHost())


def _keep_warm(turn: Turn) -> None:
    state = turn.state
    open_tasks = [t for t in state.tasks.values() if t.phase != "ended"]
    if open_tasks:
        state.busy_at = state.now
        if not state.warm:
            state.warm = True
            turn.do(c.Prewarm(environment=_likely_environment(state)))
    elif state.warm and state.now >= state.busy_at + RELEASE_SECONDS:
        state.warm = False
        turn.do(c.ReleaseIdle())


def _likely_environment(state: AgentState) -> Environment:
    """That of a task in hand where it is known already, else the cheaper guess."""
    for _, task in sorted(state.tasks.items()):
        bundle = state.bundles.get(task.record.grant.sha256)
        if task.phase in WAITING and bundle is not None and bundle.manifest is not None:
            return bundle.manifest.environment
    return "numpy"


# --- the server, the end, the alarm ---------------------------------------------------------------


def _speak(turn: Turn, space: Room) -> None:
    state = turn.state
    capacity = asked(state, space)
    if due_at(state, capacity) > state.now:
        return
    unanswered = state.exchange.unanswered
    if unanswered is not None:
        turn.send(unanswered, again=True)
        return
    if hungry(capacity) and state.exchange.answered_at == -NEVER and not state.warm:
        state.warm = True
        turn.do(c.Prewarm(environment="numpy"))
    turn.send(compose(state, capacity), again=False)


def _leave(turn: Turn) -> None:
    if (leave := _why_leave(turn.state)) is not None:
        turn.state.exited = True
        turn.do(leave)


def _why_leave(state: AgentState) -> c.Exit | None:
    """Why the agent should end now; None while it should not."""
    exchange = state.exchange
    if state.stop is not None:
        alive = any(t.phase in ALIVE for t in state.tasks.values())
        told = state.reports_since > state.now or exchange.not_before == NEVER
        settled = told and not alive and exchange.in_flight is None
        if state.now >= state.stop.give_up_at or settled:
            return c.Exit(reason=state.stop.reason)
    away = exchange.failures > 0 and not _to_do(state)
    if state.until_idle and away and exchange.failures >= SERVER_FAILURES_MAX:
        return c.Exit(reason=exchange.problem, fault="unreachable")
    if state.drain is not None and state.drain.then == "exit" and away and _late(state):
        return c.Exit(reason=f"drained: {state.drain.reason}; reports wait for the next start")
    if state.tasks or exchange.in_flight is not None or exchange.unanswered is not None:
        return None
    unsaid = exchange.wanted_now and not exchange.failures
    if state.drain is not None and state.drain.then == "exit" and not unsaid:
        return c.Exit(reason=f"drained: {state.drain.reason}")
    asked_for_all = state.gpus_known and not exchange.wanted_now
    if state.until_idle and exchange.dry and asked_for_all:
        return c.Exit(reason="the server has no more work")
    return None


def _to_do(state: AgentState) -> bool:
    """Whether a task is still to be run; reports that wait are kept for the next start."""
    return any(t.phase != "ended" for t in state.tasks.values())


def _wake(turn: Turn, space: Room) -> None:
    state = turn.state
    if state.exited:
        return
    at = _next_deadline(state, space)
    if at != state.wake_at:
        state.wake_at = at
        if at < NEVER:
            turn.do(c.WakeAt(at=at))


def _next_deadline(state: AgentState, space: Room) -> float:
    """The earliest time at which something must be decided again."""
    times = [
        due_at(state, asked(state, space)),
        state.stop_at,
        state.probed_at + PROBE_SECONDS,
    ]
    times += [
        t.retry_at for t in state.tasks.values() if t.phase == "queued" and t.retry_at > state.now
    ]
    times += [b.retry_at for b in state.bundles.values() if not b.path and b.retry_at > state.now]
    times += changes_at(state)
    times.append(_look_again_at(state))
    if state.drain is not None and state.drain.deadline_wall is not None:
        deadline = state.drain.deadline_wall - state.wall_offset
        times.append(deadline if deadline > state.now else NEVER)
    if state.warm and not any(t.phase != "ended" for t in state.tasks.values()):
        times.append(state.busy_at + RELEASE_SECONDS)
    if state.stop is not None:
        times.append(state.stop.give_up_at)
    return min(times)
