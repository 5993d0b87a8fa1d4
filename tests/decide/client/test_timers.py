"""What happens by time alone: probes, measurements, zygotes; and what a start takes from before."""

from __future__ import annotations

from typing import Any

import pytest

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.agent import INCIDENT_SECONDS, step
from axiom_client.decide.measure import MEASURE_IDLE_SECONDS, MEASURE_SECONDS, PROBE_SECONDS
from axiom_client.decide.model import (
    AgentState,
    CreditDay,
    Incident,
    Limits,
    Load,
    TaskRecord,
)
from axiom_client.decide.place import room_now
from axiom_client.decide.retry import BUNDLE_FIRST_SECONDS
from axiom_client.decide.standby import STANDBY_BYTES, standby_processes
from axiom_client.decide.sync import credit_today
from axiom_client.decide.warm import RELEASE_SECONDS
from axiom_protocol.manifest import Resources
from axiom_protocol.messages import Credit
from tests.support.world import SHA, WALL, World, facts, grant, of

HOUR = 3600.0


def idle(**started: Any) -> World:
    """A host that hears nothing, from a server that wants to be asked again in an hour."""
    world = World(**started)
    world.answer(next_sync_seconds=HOUR)
    return world


# --- the host -------------------------------------------------------------------------------------


def test_the_host_is_probed_every_ten_minutes() -> None:
    world = idle()
    times = []
    for _ in range(int(HOUR / 60)):
        times += [world.now - 1000.0 for _ in of(world.wait(60), c.ProbeHost)]
    assert times == [PROBE_SECONDS * n for n in range(1, 7)]


@pytest.mark.parametrize(("tasks", "seconds"), [(0, MEASURE_IDLE_SECONDS), (1, MEASURE_SECONDS)])
def test_the_load_is_measured_more_often_while_tasks_are_in_hand(
    tasks: int, seconds: float
) -> None:
    world = World(facts(cores=1), limits=Limits(temperature_max=80.0)).working(tasks)
    assert len(world.saying(c.MeasureLoad)) == 1
    world.wait(1000.0 + seconds - world.now - 0.1)
    assert len(world.saying(c.MeasureLoad)) == 1
    world.wait(0.1)
    assert len(world.saying(c.MeasureLoad)) == 2


@pytest.mark.parametrize(
    ("limits", "load", "measured"),
    [
        ({}, {}, None),
        ({"other_load_share": 0.5}, {}, {"others": True}),
        ({"while_in_use": False}, {}, {"presence": True}),
        ({"temperature_max": 80.0}, {}, {"heat": True}),
        ({"exclusive": ["steam"]}, {}, {"programs": ["steam"]}),
        ({"memory_keep_free": 0.1}, {}, {"space": True}),
        ({"disk_keep_free": 0.1}, {}, {"space": True}),
        ({}, {"has_battery": True}, {"presence": True}),
        ({"on_battery": True}, {"has_battery": True}, None),
    ],
)
def test_only_what_a_limit_depends_on_is_measured(
    limits: dict[str, Any], load: dict[str, Any], measured: dict[str, Any] | None
) -> None:
    """The first measurement also finds out whether there is a battery, and how much is free."""
    world = World(facts(cores=1), limits=Limits(**limits)).working(1)
    [first] = world.saying(c.MeasureLoad)
    assert (first.presence, first.space) == (True, True)
    world.do(e.LoadMeasured(now=world.now, load=Load(**load)))
    found = of(world.wait(MEASURE_SECONDS), c.MeasureLoad)
    assert found == ([] if measured is None else [c.MeasureLoad(**measured)])


def test_free_space_is_not_measured_without_tasks() -> None:
    world = World(limits=Limits(memory_keep_free=0.1, temperature_max=80.0)).working(0)
    found = of(world.wait(MEASURE_IDLE_SECONDS), c.MeasureLoad)
    assert found == [c.MeasureLoad(heat=True)]


# --- zygotes --------------------------------------------------------------------------------------


def test_zygotes_end_two_minutes_after_the_last_task_and_once() -> None:
    """Not two minutes after the last event while it ran: it may take an hour."""
    world = World(facts(cores=1)).working(1)
    world.wait(500)
    world.ended(1)
    world.answer()
    began = world.now
    assert not of(world.wait(RELEASE_SECONDS - 0.1), c.ReleaseIdle)
    assert len(of(world.wait(0.1), c.ReleaseIdle)) == 1
    assert world.now == began + RELEASE_SECONDS
    assert not of(world.wait(HOUR), c.ReleaseIdle)


def test_zygotes_end_though_a_report_waits_for_a_server_that_is_away() -> None:
    world = World(facts(cores=1)).working(1)
    world.ended(1)
    world.do(e.SyncFailed(now=world.now, problem="away", jitter=0.5))
    assert of(world.wait(RELEASE_SECONDS), c.ReleaseIdle)


def after_release(**fetched: Any) -> World:
    """A host that knows a bundle, and whose zygotes have ended."""
    world = World(facts(cores=1)).working(1)
    world.fetched(**fetched)
    world.ended(1)
    world.hear_nothing()
    world.wait(RELEASE_SECONDS)
    assert not world.state.warm
    world.do(e.SyncRequested(now=world.now))
    return world


def test_a_task_that_starts_at_once_brings_its_own_zygote() -> None:
    commands = after_release(dependencies=["torch"]).answer(grant(2))
    assert of(commands, c.StartTask)
    assert not of(commands, c.Prewarm)


def test_a_zygote_for_the_environment_of_the_waiting_task_is_started_once() -> None:
    world = after_release(dependencies=["torch"])
    world.do(e.PauseRequested(now=world.now))
    commands = world.answer(grant(2))
    assert [command.environment for command in of(commands, c.Prewarm)] == ["torch"]
    assert not of(world.wait(HOUR), c.Prewarm)


def test_no_process_waits_where_no_core_may_be_used() -> None:
    world = World(facts(gpus=1), limits=Limits(cpu_share=0.0))
    world.answer(grant(1, device="gpu"))
    world.fetched(resources=Resources(memory_bytes=100_000_000, disk_bytes=1_000_000))
    assert world.phases() == {1: "running"}
    assert standby_processes(world.state, room_now(world.state)) == 0


@pytest.mark.parametrize(("free", "processes"), [(STANDBY_BYTES // 2, 1), (1, 0)])
def test_a_process_that_waits_ends_when_half_of_its_memory_is_not_free(
    free: int, processes: int
) -> None:
    world = World(facts(cores=1), limits=Limits(memory_keep_free=1e9)).working(1)
    ample = Load(memory_available_bytes=10**9 + 2 * STANDBY_BYTES)
    world.do(e.LoadMeasured(now=world.now, load=ample))
    assert world.state.standby == 1
    scarce = Load(memory_available_bytes=10**9 + free)
    world.do(e.LoadMeasured(now=world.now, load=scarce))
    assert world.state.standby == processes


# --- retries --------------------------------------------------------------------------------------


def test_a_bundle_is_fetched_again_at_its_time_and_the_timer_moves_on() -> None:
    world = World(facts(cores=1))
    world.answer(grant(1), next_sync_seconds=HOUR)
    world.do(e.BundleFailed(now=world.now, sha256=SHA, problem="away", jitter=0.5))
    world.hear_nothing()
    world.wait(1000.0 + BUNDLE_FIRST_SECONDS - world.now - 0.1)
    assert len(world.saying(c.FetchBundle)) == 1
    world.wait(0.1)
    assert len(world.saying(c.FetchBundle)) == 2
    assert world.state.wake_at > world.now


def test_the_timer_moves_on_after_the_deadline_of_a_drain() -> None:
    world = World(facts(cores=1)).working(1)
    world.do(e.DrainRequested(now=world.now, reason="moving", deadline_seconds=100.0))
    world.wait(100)
    assert world.state.wake_at > world.now


# --- what a start takes from before ---------------------------------------------------------------


def test_nothing_is_asked_before_the_host_is_probed() -> None:
    started = e.AgentStarted(now=1.0, wall=WALL, instance="0" * 16, limits=Limits())
    state, commands = step(AgentState(), started)
    _, later = step(state, e.SyncRequested(now=2.0))
    assert not of(commands + later, c.Sync)


def test_credit_is_known_at_the_start() -> None:
    today = CreditDay(day=int(WALL // 86_400), host_total=100.0)
    world = World(credit=Credit(host_total=107.5), credit_day=today)
    assert credit_today(world.state) == 7.5


def test_tasks_keep_their_order_and_reports_their_outcome_and_size() -> None:
    record = TaskRecord(grant=grant(1), order=5, lease_until_wall=WALL + HOUR)
    waiting = e.WaitingReport(task_id=1, outcome="success", size_bytes=77)
    world = World(tasks=[record], reports=[waiting], epoch="one")
    assert (world.state.tasks[1].outcome, world.state.tasks[1].report_bytes) == ("success", 77)
    world.answer(grant(2), acknowledged=[])
    assert world.state.tasks[2].record.order == 6


@pytest.mark.parametrize(
    ("age", "shown"), [(60.0, True), (INCIDENT_SECONDS, True), (INCIDENT_SECONDS + 1, False)]
)
def test_an_incident_is_shown_for_a_week(age: float, shown: bool) -> None:
    incident = Incident(text="the journal was damaged", wall=WALL - age)
    world = World(incident=incident)
    assert world.state.incident == (incident if shown else None)
    lines = [(line.level, line.text) for line in world.saying(c.LogLine)]
    assert lines == ([("warning", "the journal was damaged")] if shown else [])
