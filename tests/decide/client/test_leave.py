"""When the agent ends: what must be settled before, and what it says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.leave import SERVER_FAILURES_MAX
from axiom_client.decide.sync import REPORT_BYTES_MAX, SPACING_SECONDS
from axiom_client.decide.take_up import WAIT_SECONDS
from tests.support.world import World, facts, of


def fail(world: World, times: int = 1) -> None:
    """The server does not answer; the next request is sent at its time."""
    for _ in range(times):
        world.do(e.SyncFailed(now=world.now, problem="away", jitter=0.5))
        if world.state.sync.not_before != float("inf"):
            world.now = max(world.now, world.state.sync.not_before)
            world.do(e.TimerFired(now=world.now))


def drain(world: World, **how: Any) -> list[c.Command]:
    return world.do(e.DrainRequested(now=world.now, reason="moving", **how))


def exits(world: World) -> list[tuple[str, str]]:
    return [(leave.reason, leave.fault) for leave in world.saying(c.Exit)]


def test_an_agent_that_ends_decides_nothing_more() -> None:
    world = World(until_idle=True).working(0)
    assert exits(world) == [("the server has no more work", "")]
    assert world.wait(10_000) == []
    assert world.do(e.FactsProbed(now=world.now, facts=facts(cores=9))) == []


def test_a_stop_sends_all_reports_before_it_ends() -> None:
    """Three reports, of which two requests can carry all."""
    world = World(facts(cores=3)).working(3)
    for task_id in (1, 2, 3):
        task = world.state.tasks[task_id]
        world.state.tasks[task_id] = msgspec.structs.replace(
            task, phase="ended", outcome="success", report_bytes=REPORT_BYTES_MAX // 2
        )
    world.do(e.SyncRequested(now=world.now))
    world.do(e.StopRequested(now=world.now, reason="SIGTERM"))
    assert not of(world.answer(), c.Exit)
    [sync] = of(world.wait(SPACING_SECONDS), c.Sync)
    assert sync.plan.report_ids == [3]
    assert of(world.answer(), c.Exit)


# --- run --until-idle -----------------------------------------------------------------------------


def test_until_idle_does_not_give_up_on_a_server_while_a_task_runs() -> None:
    world = World(facts(cores=1), until_idle=True).working(1)
    world.do(e.SyncRequested(now=world.now))
    fail(world, SERVER_FAILURES_MAX + 1)
    assert exits(world) == []
    world.ended(1)
    assert exits(world) == [("away", "unreachable")]


# --- drains ---------------------------------------------------------------------------------------


def test_a_drain_ends_the_agent_only_when_the_server_knows_of_it() -> None:
    world = World().working(0)
    world.do(e.SyncRequested(now=world.now))
    world.answer()
    drain(world, then="exit")
    assert exits(world) == []
    [sync] = of(world.wait(SPACING_SECONDS), c.Sync)
    assert sync.plan.draining == "moving"
    world.answer()
    assert exits(world) == [("drained: moving", "")]


def test_a_drain_waits_for_a_server_that_is_away_until_its_deadline() -> None:
    """Its task is done, and its report is not sent."""
    world = World(facts(cores=1)).working(1)
    drain(world, then="exit", deadline_seconds=100.0)
    world.ended(1)
    fail(world, 4)
    assert world.now < 1100
    assert exits(world) == []
    world.wait(100)
    assert exits(world) == [("drained: moving; unsent reports are kept for the next start", "")]


def test_a_drain_without_a_deadline_waits_for_the_server() -> None:
    world = World(facts(cores=1)).working(1)
    drain(world, then="exit")
    world.ended(1)
    fail(world, 12)
    assert exits(world) == []


def test_a_drain_whose_deadline_has_passed_and_that_is_settled_has_no_more_to_say() -> None:
    world = World(facts(cores=1)).working(1)
    drain(world, then="exit", deadline_seconds=10.0)
    world.hear_nothing()
    world.wait(10)
    world.ended(1, "cancelled")
    assert exits(world) == []
    world.answer()
    world.hear_nothing()
    assert exits(world) == [("drained: moving", "")]


def test_the_deadline_of_a_drain_ends_paused_tasks_too() -> None:
    world = World(facts(cores=1)).working(1)
    world.do(e.PauseRequested(now=world.now))
    drain(world, deadline_seconds=10.0)
    assert [stop.task_id for stop in of(world.wait(10), c.StopTask)] == [1]
    [save] = of(world.ended(1, "cancelled", elapsed_seconds=7.0), c.SaveReport)
    assert save.report.elapsed_seconds == 7.0


def test_a_pause_after_a_drain_begins_when_all_is_settled() -> None:
    world = World(facts(cores=1)).working(1)
    drain(world, then="pause")
    world.hear_nothing()
    assert world.state.pause is None
    world.ended(1)
    assert world.state.pause is None
    world.answer()
    assert world.state.pause is not None


def test_a_pause_after_a_drain_of_an_idle_host_waits_until_the_server_knows() -> None:
    world = World().working(0)
    world.do(e.SyncRequested(now=world.now))
    world.answer()
    drain(world, then="pause")
    assert world.state.pause is None
    world.wait(SPACING_SECONDS)
    world.answer()
    assert world.state.pause is not None


# --- updates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("waited", "stops"), [(WAIT_SECONDS - 0.1, 0), (WAIT_SECONDS, 1)])
def test_a_staged_release_waits_for_half_an_hour(waited: float, stops: int) -> None:
    world = World(facts(cores=1)).working(1)
    world.do(e.UpdateStaged(now=world.now, version="0.3.0"))
    commands = world.wait(waited)
    assert [line.text for line in of(commands, c.LogLine) if "started" in line.text] == (
        ["stopping: axiom-client 0.3.0 is started"] * stops
    )
    assert len(of(commands, c.StopTask)) == stops
    assert exits(world) == []
