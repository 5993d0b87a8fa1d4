"""What follows from the state, decided afresh after every event: nothing can be left undone.

``follow`` is level-triggered: it looks at what is, not at what changed.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from axiom_client.decide import commands as c
from axiom_client.decide.allocate import Allocation, allocate, needs_of
from axiom_client.decide.binding import bind
from axiom_client.decide.capacity import Room, room
from axiom_client.decide.exchange import asked, compose, due_at, hungry
from axiom_client.decide.fit import accept
from axiom_client.decide.model import NEVER, AgentState, Bundle, TaskState
from axiom_client.decide.task import ALIVE, WAITING
from axiom_client.decide.turn import Turn
from axiom_protocol.manifest import Manifest

Environment = Literal["numpy", "torch"]
RELEASE_SECONDS = 120.0  # idle before the warm parents go: longer than a gap between batches
MEASURE_SECONDS = (
    10.0  # between looks at other programs and presence, while a limit depends on them
)
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
        pause=state.pause,
        stopping=f"stopping: {state.stop.reason}" if state.stop else "",
    )


def allocation_now(state: AgentState) -> Allocation:
    """Who would run where as things stand."""
    return allocate(state.tasks, state.bundles, room_now(state), state.now)


def follow(turn: Turn) -> None:
    """Give every command that the state calls for."""
    if turn.state.exited:
        return
    _end_pause(turn)
    _give_back(turn)
    _fetch(turn)
    space = room_now(turn.state)
    _place(turn, space)
    _look_around(turn)
    _keep_warm(turn)
    _speak(turn, space)
    _leave(turn)
    _wake(turn, space)


def _end_pause(turn: Turn) -> None:
    pause = turn.state.pause
    if pause and pause.until_wall is not None and turn.state.wall >= pause.until_wall:
        turn.state.pause = None
        turn.do(c.SaveValue(key="pause", value=None))
        turn.tell("the pause is over")


def _give_back(turn: Turn) -> None:
    state = turn.state
    if state.drain is None and state.stop is None:
        return
    reason = state.drain.reason if state.drain else "the agent stopped"
    for _, task in sorted(state.tasks.items()):
        if task.phase in WAITING and task.record.attempts == 0:
            turn.give_back(task, reason)


# --- bundles and placing --------------------------------------------------------------------------


def _fetch(turn: Turn) -> None:
    state = turn.state
    if state.stop is not None:
        return
    for _, task in sorted(state.tasks.items()):
        if task.phase != "granted":
            continue
        grant = task.record.grant
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
    allocation = allocate(state.tasks, state.bundles, space, state.now)
    for task_id in allocation.pause:
        task = state.tasks[task_id]
        turn.advance(task, "pause", ran_seconds=ran_seconds(task, state.now))
        turn.do(c.PauseTask(task_id=task_id))
    for task_id in allocation.resume:
        turn.advance(state.tasks[task_id], "resume", running_since=state.now)
        turn.do(c.ResumeTask(task_id=task_id))
    for task_id, gpu in allocation.start:
        _start(turn, state.tasks[task_id], gpu)


def ran_seconds(task: TaskState, now: float) -> float:
    """How long this run of a task has gone on, pauses not counted."""
    if task.phase in ("running", "stopping"):
        return task.ran_seconds + max(0.0, now - task.running_since)
    return task.ran_seconds


def _start(turn: Turn, task: TaskState, gpu: int) -> None:
    state = turn.state
    record = msgspec.structs.replace(task.record, attempts=task.record.attempts + 1)
    bundle = state.bundles[record.grant.sha256]
    turn.save(record)
    turn.advance(
        task,
        "start",
        record=record,
        gpu=gpu,
        progress=0.0,
        ran_seconds=0.0,
        running_since=state.now,
    )
    assert bundle.manifest is not None  # it came together with the path that made the task ready
    turn.do(_start_command(state, task, bundle, bundle.manifest, gpu))
    state.warm = True


def _start_command(
    state: AgentState, task: TaskState, bundle: Bundle, manifest: Manifest, gpu: int
) -> c.StartTask:
    grant = task.record.grant
    needs = needs_of(task, state.bundles)
    expected = max(manifest.expected_seconds, grant.budget_seconds)
    wall_seconds = max(WALL_FLOOR_SECONDS, WALL_MARGIN * expected)
    uuid = state.facts.gpus[gpu].uuid if state.facts and gpu >= 0 else ""
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
        gpu=gpu,
        gpu_uuid=uuid,
    )


# --- looking around and staying warm --------------------------------------------------------------


def watches_load(state: AgentState) -> bool:
    """Whether a limit depends on what else happens on the host."""
    limits = state.limits
    battery = state.load.has_battery and not limits.on_battery
    return bool(limits.other_load_share or not limits.while_in_use or battery)


def _look_around(turn: Turn) -> None:
    state = turn.state
    first = state.measured_at == -NEVER
    if first or (watches_load(state) and state.now >= state.measured_at + MEASURE_SECONDS):
        state.measured_at = state.now
        turn.do(c.MeasureLoad())
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
    state = turn.state
    if reason := _why_leave(state):
        state.exited = True
        turn.do(c.Exit(reason=reason))


def _why_leave(state: AgentState) -> str:
    """Why the agent should end now; empty while it should not."""
    exchange = state.exchange
    open_request = exchange.in_flight is not None
    if state.stop is not None:
        alive = any(t.phase in ALIVE for t in state.tasks.values())
        told = state.reports_since > state.now or exchange.not_before == NEVER
        if state.now >= state.stop.give_up_at or (told and not alive and not open_request):
            return state.stop.reason
    if state.tasks or open_request or exchange.unanswered is not None:
        return ""
    if state.drain is not None and state.drain.then_exit:
        return f"drained: {state.drain.reason}"
    if state.until_idle and exchange.dry:
        return "the server has no more work"
    return ""


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
    if state.pause is not None and state.pause.until_wall is not None:
        times.append(state.pause.until_wall - state.wall_offset)
    if watches_load(state):
        times.append(state.measured_at + MEASURE_SECONDS)
    if state.warm and not any(t.phase != "ended" for t in state.tasks.values()):
        times.append(state.busy_at + RELEASE_SECONDS)
    if state.stop is not None:
        times.append(state.stop.give_up_at)
    return min(times)
