"""Conditions and commands: hours across midnight, drains with a deadline, the pause of one GPU,
limits that change while tasks run, and runs that end on their own."""

from __future__ import annotations

import calendar
from typing import Any

import pytest

from axiom_client.config.quantities import read_schedule
from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.blocked import blocked_text
from axiom_client.decide.leave import SERVER_FAILURES_MAX
from axiom_client.decide.model import Limits, Load, TaskState
from axiom_client.decide.place import room_now
from axiom_client.decide.schedule import is_open, moment, next_change
from axiom_protocol.manifest import Resources
from tests.support.world import World, facts, grant, of

HOUR = 3600.0


def local(text: str) -> float:
    """Local seconds since 1970 of "2026-03-04 22:30"; the 2nd of March 2026 was a Monday."""
    day, clock = text.split()
    year, month, number = map(int, day.split("-"))
    hour, minute = map(int, clock.split(":"))
    return float(calendar.timegm((year, month, number, hour, minute, 0)))


# --- hours ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "at", "open_", "change"),
    [
        ("", "2026-03-02 12:00", True, None),
        ("22:00-07:00", "2026-03-02 21:59", False, "2026-03-02 22:00"),
        ("22:00-07:00", "2026-03-02 22:00", True, "2026-03-03 07:00"),
        ("22:00-07:00", "2026-03-03 00:00", True, "2026-03-03 07:00"),
        ("22:00-07:00", "2026-03-03 06:59", True, "2026-03-03 07:00"),
        ("22:00-07:00", "2026-03-03 07:00", False, "2026-03-03 22:00"),
        # hours across midnight belong to the day on which they begin
        ("mon-fri 22:00-07:00", "2026-03-07 03:00", True, "2026-03-07 07:00"),  # Friday's night
        ("mon-fri 22:00-07:00", "2026-03-07 23:00", False, "2026-03-09 22:00"),
        ("mon-fri 22:00-07:00", "2026-03-09 03:00", False, "2026-03-09 22:00"),  # Sunday's is none
        # from Sunday into the next week
        ("sun 20:00-04:00", "2026-03-09 03:59", True, "2026-03-09 04:00"),
        ("sun 20:00-04:00", "2026-03-09 04:00", False, "2026-03-15 20:00"),
        # whole days side by side are one stretch
        ("sat, sun", "2026-03-06 23:59", False, "2026-03-07 00:00"),
        ("sat, sun", "2026-03-07 12:00", True, "2026-03-09 00:00"),
        ("mon-fri 22:00-07:00; sat, sun", "2026-03-07 06:59", True, "2026-03-09 00:00"),
        ("fri-mon 08:00-09:00", "2026-03-09 08:30", True, "2026-03-09 09:00"),
        ("mon-sun", "2026-03-04 12:00", True, None),
        ("0:00-24:00", "2026-03-04 23:59", True, None),
    ],
)
def test_hours_of_the_week(schedule: str, at: str, open_: bool, change: str | None) -> None:
    spans = read_schedule(schedule)
    assert is_open(spans, local(at)) is open_
    assert next_change(spans, local(at)) == (None if change is None else local(change))


def test_times_on_another_day_are_shown_with_the_day() -> None:
    now = local("2026-03-02 23:50")
    assert moment(local("2026-03-02 23:59"), now) == "23:59"
    assert moment(local("2026-03-03 07:00"), now) == "Tue 07:00"


@pytest.mark.parametrize("offset", [0, 2 * 3600, -5 * 3600 - 1800])
def test_scheduled_hours_pause_and_resume_work(offset: int) -> None:
    wall = local("2026-03-02 21:00") - offset
    limits = Limits(schedule=read_schedule("22:00-07:00"))
    world = World(facts(cores=1), wall=wall, utc_offset_seconds=offset, limits=limits)
    assert blocked_text(world.state) == "paused: outside the hours of run.schedule until 22:00"
    assert not any(sync.plan.capacity.cpu_slots_free for sync in world.saying(c.Sync))
    world.wait(HOUR)
    world.working(1)
    assert world.phases() == {1: "running"}
    world.wait(9 * HOUR - 60)
    assert world.phases() == {1: "running"}
    world.wait(120)  # over seven o'clock
    assert world.phases() == {1: "paused"}
    assert blocked_text(world.state) == "paused: outside the hours of run.schedule until 22:00"
    world.wait(15 * HOUR)
    assert world.phases() == {1: "running"}


def test_a_changed_clock_takes_effect_at_once() -> None:
    """Summer time, a flight, or a clock put right: the hours are those of the new time."""
    wall = local("2026-03-29 00:30")
    limits = Limits(schedule=read_schedule("22:00-02:00"))
    world = World(facts(cores=1), wall=wall, limits=limits).working(1)
    assert world.phases() == {1: "running"}
    offset = wall - 1000.0
    world.do(e.ClockChanged(now=world.now, wall=world.now + offset, utc_offset_seconds=7200))
    assert world.phases() == {1: "paused"}  # it is half past two now
    world.do(e.ClockChanged(now=world.now, wall=world.now + offset, utc_offset_seconds=0))
    assert world.phases() == {1: "running"}


# --- drains ---------------------------------------------------------------------------------------


def draining(world: World, **how: Any) -> list[c.Command]:
    return world.do(e.DrainRequested(now=world.now, reason="moving house", **how))


def settle(world: World) -> None:
    """Every request is answered until none is open."""
    while world.state.sync.in_flight is not None:
        world.answer()
        world.wait(1)


def test_at_a_drains_deadline_running_tasks_are_ended_and_given_back() -> None:
    world = World(facts(cores=2)).working(4)
    draining(world, deadline_seconds=600.0)
    assert world.phases() == {1: "running", 2: "running", 3: "ended", 4: "ended"}
    settle(world)
    world.wait(590)
    assert world.phases() == {1: "running", 2: "running"}
    commands = world.wait(10)
    assert {stop.task_id for stop in of(commands, c.StopTask)} == {1, 2}
    for task_id in (1, 2):
        world.ended(task_id, "cancelled")
    reports = [s.report for s in world.saying(c.SaveReport) if s.report.task_id in (1, 2)]
    assert [r.message for r in reports] == [
        "given back: moving house, and the drain's deadline has passed"
    ] * 2


def test_after_a_drain_the_agent_does_what_was_requested() -> None:
    for then, follows in (("exit", "exit"), ("pause", "pause"), ("stay", "nothing")):
        world = World(facts(cores=1)).working(1)
        draining(world, then=then)
        settle(world)
        world.ended(1)
        world.wait(2)
        settle(world)
        exits = [exit_.reason for exit_ in world.saying(c.Exit)]
        assert exits == (["drained: moving house"] if follows == "exit" else [])
        paused = world.state.pause
        assert (paused is not None) is (follows == "pause")
        if paused is not None:
            assert paused.reason == "paused: drained, moving house"
        assert (world.state.drain is not None) is (follows != "pause")


def test_a_drain_s_deadline_holds_after_a_restart() -> None:
    before = World(facts(cores=1)).working(1)
    draining(before, deadline_seconds=600.0, then="exit")
    drain = before.state.drain
    records = [task.record for task in before.state.tasks.values()]
    world = World(facts(cores=1), drain=drain, tasks=records, wall=before.state.wall + 300)
    world.fetched()
    assert world.phases() == {1: "running"}
    commands = world.wait(301)
    assert [stop.task_id for stop in of(commands, c.StopTask)] == [1]


# --- tasks in hand while everything is paused -----------------------------------------------------


@pytest.mark.parametrize(
    ("pause_seconds", "given_back"),
    [(600.0, 0), (None, 0), (7 * HOUR, 600)],  # leases of six hours end in the last of them
)
def test_a_pause_gives_back_only_tasks_that_would_be_late(
    pause_seconds: float | None, given_back: int
) -> None:
    world = World(facts(cores=240))
    world.answer(*[grant(i + 1, lease_seconds=6 * HOUR) for i in range(840)])
    world.fetched(resources=Resources(memory_bytes=20_000_000, disk_bytes=1_000_000))
    world.hear_nothing()
    world.do(e.PauseRequested(now=world.now, for_seconds=pause_seconds, reason="paused by you"))
    phases = list(world.phases().values())
    assert phases.count("ended") == given_back
    assert phases.count("paused") == 240


# --- GPUs -----------------------------------------------------------------------------------------


def gpu_world(gpus: int, tasks: int) -> World:
    """A host whose GPU tasks run, one or two to a GPU."""
    world = World(facts(cores=1, gpus=gpus))
    world.do(e.FactsProbed(now=world.now, facts=facts(cores=1, gpus=gpus), gpus_known=True))
    world.answer(*[grant(i + 1, device="gpu") for i in range(tasks)])
    world.fetched(resources=Resources(gpus=1, memory_bytes=100_000_000, disk_bytes=1_000_000))
    world.hear_nothing()
    return world


def on_gpu(world: World, gpu: int) -> list[TaskState]:
    return [t for t in world.state.tasks.values() if t.gpus == [gpu]]


def test_the_pause_of_one_gpu_leaves_the_other_alone_and_ends_by_itself() -> None:
    world = gpu_world(gpus=2, tasks=2)
    assert [t.phase for t in world.state.tasks.values()] == ["running", "running"]
    world.do(e.PauseRequested(now=world.now, for_seconds=HOUR, reason="paused by you", gpu=1))
    assert [t.phase for t in on_gpu(world, 0) + on_gpu(world, 1)] == ["running", "paused"]
    assert [s.reason for s in room_now(world.state).slots] == ["", "", "paused by you"]
    kept = [s.value for s in world.saying(c.SaveValue) if s.key == "gpu_pauses"]
    assert list(kept[-1]) == ["GPU-1"]  # by identity, so that it holds after a restart
    world.wait(HOUR + 1)
    assert [t.phase for t in on_gpu(world, 1)] == ["running"]


def test_the_pause_of_a_gpu_survives_a_restart_in_which_the_gpus_change_places() -> None:
    before = gpu_world(gpus=2, tasks=0)
    before.do(e.PauseRequested(now=before.now, for_seconds=None, reason="paused by you", gpu=1))
    world = World(facts(cores=1), gpu_pauses=before.state.gpu_pauses)
    swapped = facts(cores=1, gpus=2)
    swapped.gpus.reverse()
    world.do(e.FactsProbed(now=world.now, facts=swapped, gpus_known=True))
    assert [s.reason for s in room_now(world.state).slots] == ["", "paused by you", ""]
    world.do(e.ResumeRequested(now=world.now, gpu=0))
    assert [s.reason for s in room_now(world.state).slots] == ["", "", ""]


@pytest.mark.parametrize("paused", [False, True])
def test_a_gpu_that_vanishes_costs_its_task_no_report(paused: bool) -> None:
    world = gpu_world(gpus=2, tasks=2)
    if paused:
        world.do(e.PauseRequested(now=world.now, gpu=1))
    one = facts(cores=1, gpus=1)
    commands = world.do(e.FactsProbed(now=world.now, facts=one, gpus_known=True))
    assert [stop.task_id for stop in of(commands, c.StopTask)] == [2]
    world.ended(2, "cancelled")
    assert world.phases() == {1: "running", 2: "queued"}  # until a GPU is free for it


# --- limits that change while tasks run -----------------------------------------------------------


def test_new_limits_apply_at_once() -> None:
    world = World(facts(cores=4)).working(4)
    assert list(world.phases().values()) == ["running"] * 4
    world.do(e.ConfigChanged(now=world.now, limits=Limits(cpu_cores=1)))
    assert list(world.phases().values()) == ["running", "paused", "paused", "paused"]
    world.do(e.ConfigChanged(now=world.now, limits=Limits(while_in_use=False)))
    world.do(e.LoadMeasured(now=world.now, load=Load(in_use=True)))
    assert set(world.phases().values()) == {"paused"}
    world.do(e.ConfigChanged(now=world.now, limits=Limits()))
    assert set(world.phases().values()) == {"running"}


def test_the_value_that_a_new_limit_needs_is_measured_at_once() -> None:
    world = World(facts(cores=1)).working(1)
    commands = world.do(e.ConfigChanged(now=world.now, limits=Limits(exclusive=["steam"])))
    assert [look.programs for look in of(commands, c.MeasureLoad)] == [["steam"]]


# --- runs that end on their own -------------------------------------------------------------------


def fail(world: World) -> list[c.Command]:
    return world.do(e.SyncFailed(now=world.now, problem="nothing answers", again=True, jitter=0.5))


def test_until_idle_waits_for_an_absent_server_then_ends_with_its_error() -> None:
    world = World(until_idle=True)
    for _ in range(SERVER_FAILURES_MAX - 1):
        fail(world)
        assert not world.saying(c.Exit)
        world.wait(300)
        assert world.state.sync.in_flight is not None
    [leave] = of(fail(world), c.Exit)
    assert (leave.fault, leave.reason) == ("unreachable", "nothing answers")


def test_until_idle_waits_for_running_tasks_and_their_acknowledgement() -> None:
    world = World(facts(cores=1), until_idle=True)
    world.answer(grant(1))
    world.fetched()
    world.hear_nothing()
    assert not world.saying(c.Exit)  # the server has no more work, and one task still runs
    world.ended(1)
    world.wait(1)
    assert not world.saying(c.Exit)
    world.answer()
    world.hear_nothing()
    [leave] = world.saying(c.Exit)
    assert leave.reason == "the server has no more work"
