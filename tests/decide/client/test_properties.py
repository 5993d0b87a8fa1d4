"""Properties that hold for an agent in any order of events."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from axiom_client.decide import events as e
from axiom_client.decide.agent import step
from axiom_client.decide.allocate import needs_of
from axiom_client.decide.blocked import changes_at
from axiom_client.decide.capacity import Room
from axiom_client.decide.model import NEVER, AgentState, TaskState
from axiom_client.decide.place import room_now
from axiom_client.decide.task import ALIVE
from tests.decide.client.simulation import Life

LIVES = settings(max_examples=40, deadline=None)


def check(state: AgentState) -> None:
    """What must be true after every event."""
    if state.exited:
        return
    room = room_now(state)
    alive = [t for t in state.tasks.values() if t.phase in ALIVE]
    running = [t for t in alive if t.phase == "running"]
    if state.stop is None:
        on_cpu = [t for t in running if not needs_of(t, state.bundles).gpus]
        cores = sum(needs_of(t, state.bundles).cpu_cores for t in on_cpu)
        assert cores <= len(room.cpu)
        check_gpus(state, room, running)
    # every wait has a wake-up: nothing may be due without an alarm at that time
    waits = [t.retry_at for t in state.tasks.values() if t.phase == "queued"]
    waits += [b.retry_at for b in state.bundles.values() if not b.path and not b.fetching]
    waits += changes_at(state)
    if state.sync.in_flight is None and state.sync.not_before > state.now:
        waits.append(state.sync.not_before)
    if state.drain is not None and state.drain.deadline_wall is not None:
        waits.append(state.drain.deadline_wall - state.wall_offset)
    for at in waits:
        if state.now < at < NEVER:
            assert state.wake_at <= max(at, state.sync.next_at) + 1e-6


def check_gpus(state: AgentState, room: Room, running: list[TaskState]) -> None:
    """No GPU is assigned more tasks, shares or memory than it has."""
    on_gpu = [(t, needs_of(t, state.bundles)) for t in running if needs_of(t, state.bundles).gpus]
    usable = {slot.index: slot for slot in room.gpu}
    for task, needs in on_gpu:
        assert len(task.gpus) == needs.gpus
        assert set(task.gpus) <= usable.keys()
    for index, slot in usable.items():
        there = [needs for task, needs in on_gpu if index in task.gpus]
        assert len(there) <= slot.tasks
        assert sum(needs.gpu_share for needs in there) <= 1 + 1e-9
        assert sum(needs.gpu_memory_bytes for needs in there) <= slot.memory_bytes


@LIVES
@given(seed=st.integers(0, 2**32), crashes=st.booleans())
def test_no_order_of_events_loses_a_report_or_exceeds_a_limit(seed: int, crashes: bool) -> None:
    rng = random.Random(seed)
    life = Life(rng)
    for _ in range(150):
        if crashes and rng.random() < 0.02:
            life.crash()
        else:
            life.happen()
        check(life.world.state)
    life.settle()
    assert life.received.keys() == life.granted.keys()
    assert not life.journal_tasks
    assert not life.journal_reports


@LIVES
@given(seed=st.integers(0, 2**32))
def test_memory_and_disk_are_never_promised_twice(seed: int) -> None:
    life = Life(random.Random(seed))
    for _ in range(150):
        before = {i for i, t in life.world.state.tasks.items() if t.phase in ALIVE}
        life.happen()
        state = life.world.state
        alive = {i: t for i, t in state.tasks.items() if t.phase in ALIVE}
        if alive.keys() <= before:
            continue  # limits that shrink stop no process; they only let none start
        room = room_now(state)
        needs = [needs_of(t, state.bundles) for t in alive.values()]
        assert sum(n.memory_bytes for n in needs) <= room.memory_bytes
        assert sum(n.disk_bytes for n in needs) <= room.disk_bytes


@LIVES
@given(seed=st.integers(0, 2**32))
def test_drain_takes_no_work(seed: int) -> None:
    life = Life(random.Random(seed))
    for _ in range(60):
        life.happen()
    if life.world.state.exited:
        life.crash()
    life.do(e.ResumeRequested(now=life.world.now))
    life.do(e.DrainRequested(now=life.world.now, reason="moving"))
    began = {i for i, r in life.journal_tasks.items() if r.attempts}
    life.person = life.time_passes  # type: ignore[method-assign]
    for _ in range(60):
        life.happen()
        assert life.processes.keys() <= began
        if life.sent is not None and life.sent.draining:
            assert life.sent.capacity.cpu_slots_free == 0
            assert life.sent.capacity.buffer_seconds == 0


@LIVES
@given(seed=st.integers(0, 2**32))
def test_elapsed_time_is_what_the_processes_ran_without_their_pauses(seed: int) -> None:
    life = Life(random.Random(seed))
    ran: dict[int, float] = {}
    for _ in range(200):
        life.happen()
    life.settle()
    for event in life.world.log:
        if isinstance(event, e.TaskEnded):
            done = event.finished
            ran[done.task_id] = ran.get(done.task_id, 0.0) + done.elapsed_seconds
    for task_id, report in life.received.items():
        assert abs(report.elapsed_seconds - ran.get(task_id, 0.0)) < 1e-6


def test_a_log_of_ten_thousand_events_replays_to_the_same_commands() -> None:
    """Recorded as JSON, read back, replayed: every command equal, in the same order."""
    rng = random.Random(20260302)
    life = Life(rng)
    while len(life.world.log) < 10_000:
        life.happen()
    lines = [msgspec.json.encode(event) for event in life.world.log]
    state, commands = AgentState(), []
    for line in lines:
        state, more = step(state, msgspec.json.decode(line, type=e.Event))
        commands += more
    assert msgspec.json.encode(commands) == msgspec.json.encode(life.world.commands)
    assert len(life.received) > 500
