"""What people ask of the agent: pause, resume, drain, contact, modes, a stop."""

from __future__ import annotations

import pytest

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.measure import MEASURE_SECONDS
from axiom_client.decide.model import Limits, Load, TaskRecord
from axiom_client.decide.requests import STOP_SECONDS
from axiom_protocol.manifest import Resources
from axiom_protocol.messages import HostSettings
from tests.support.world import WALL, World, facts, grant, of


def logged(commands: list[c.Command]) -> list[str]:
    return [line.text for line in of(commands, c.LogLine)]


def saved(commands: list[c.Command]) -> list[tuple[str, object]]:
    return [(command.key, command.value) for command in of(commands, c.SaveValue)]


# --- pauses ---------------------------------------------------------------------------------------


def test_a_pause_is_saved_and_said_in_the_words_of_the_person() -> None:
    world = World()
    commands = world.do(e.PauseRequested(now=world.now, for_seconds=60.0, reason="for a game"))
    assert saved(commands) == [("pause", {"reason": "for a game", "until_wall": WALL + 60})]
    assert logged(commands) == ["for a game"]


def test_the_pause_of_a_gpu_names_it_and_is_saved_by_its_identity() -> None:
    world = World(facts(gpus=2))
    commands = world.do(e.PauseRequested(now=world.now, reason="for a game", gpu=1))
    assert saved(commands) == [
        ("gpu_pauses", {"GPU-1": {"reason": "for a game", "until_wall": None}})
    ]  # fmt: skip
    assert logged(commands) == ["GPU 1: for a game"]
    world.do(e.PauseRequested(now=world.now, gpu=0))
    commands = world.do(e.ResumeRequested(now=world.now, gpu=1))
    [(key, left)] = saved(commands)
    assert (key, list(left)) == ("gpu_pauses", ["GPU-0"])  # type: ignore[call-overload]
    assert logged(commands) == ["GPU 1 resumed"]
    assert saved(world.do(e.ResumeRequested(now=world.now, gpu=1))) == [], "it runs already"


@pytest.mark.parametrize("gpu", [-1, 1, 7])
def test_a_gpu_that_is_not_there_is_neither_paused_nor_resumed(gpu: int) -> None:
    world = World(facts(gpus=1))
    assert saved(world.do(e.PauseRequested(now=world.now, gpu=gpu))) == []
    assert saved(world.do(e.ResumeRequested(now=world.now, gpu=gpu))) == []


def test_a_pause_is_over_at_its_time_to_the_second() -> None:
    world = World(facts(cores=1, gpus=1)).working(1)
    world.do(e.PauseRequested(now=world.now, for_seconds=100.0))
    world.do(e.PauseRequested(now=world.now, for_seconds=100.0, gpu=0))
    assert world.wait(99.9) == []
    commands = world.wait(0.1)
    assert saved(commands) == [("pause", None), ("gpu_pauses", {})]
    assert logged(commands) == ["the pause is over", "the pause of a GPU is over"]
    assert [command.task_id for command in of(commands, c.ResumeTask)] == [1]


def test_resuming_says_so_and_asks_for_work_again() -> None:
    world = World()
    world.answer()
    world.do(e.DrainRequested(now=world.now, reason="moving"))
    world.wait(1)
    world.answer()
    commands = world.do(e.ResumeRequested(now=world.now))
    assert logged(commands) == ["resumed"]
    world.wait(1)
    assert world.saying(c.Sync)[-1].plan.capacity.cpu_slots_free == 2


# --- drains ---------------------------------------------------------------------------------------


def test_a_drain_is_saved_with_its_deadline_and_told_to_the_server_at_once() -> None:
    world = World(facts(cores=1)).working(1)
    commands = world.do(
        e.DrainRequested(now=world.now, reason="moving", then="exit", deadline_seconds=60.0)
    )
    deadline = world.state.wall + 60
    assert saved(commands) == [
        ("drain", {"reason": "moving", "then": "exit", "deadline_wall": deadline})
    ]  # fmt: skip
    assert [sync.plan.draining for sync in of(commands, c.Sync)] == ["moving"]


def test_a_drain_does_not_end_the_agent_while_a_request_has_no_answer() -> None:
    world = World(facts(cores=1)).working(1)
    world.do(e.DrainRequested(now=world.now, reason="moving", then="exit"))
    world.do(e.SyncFailed(now=world.now, problem="away", jitter=0.5))
    world.ended(1)
    del world.state.tasks[1]
    world.do(e.TimerFired(now=world.now))
    assert world.state.sync.unanswered is not None
    assert not world.saying(c.Exit)


@pytest.mark.parametrize("phase", ["running", "waiting"])
def test_at_the_deadline_waiting_tasks_are_given_back_too(phase: str) -> None:
    """A task that ran before, and now waits, is no new one: only the deadline ends it."""
    world = World(facts(cores=1)).working(1)
    if phase == "waiting":
        world.ended(1, "lost")
    world.do(e.DrainRequested(now=world.now, reason="moving", deadline_seconds=2.0))
    assert world.phases() == {1: "running" if phase == "running" else "queued"}
    commands = world.wait(2)
    message = "given back: moving, and the drain's deadline has passed"
    if phase == "waiting":
        [save] = of(commands, c.SaveReport)
        assert (save.report.outcome, save.report.message) == ("cancelled", message)
    assert world.phases() == {1: "stopping" if phase == "running" else "ended"}


# --- modes and contact ----------------------------------------------------------------------------


def test_a_mode_takes_effect_at_once_and_is_told_to_the_server() -> None:
    """Its limits may need a measurement that was not needed before."""
    world = World(facts(cores=1), limits=Limits(on_battery=True)).working(4)
    quiet = HostSettings(on_battery=False)
    commands = world.do(e.ModeChosen(now=world.now, mode="quiet", settings=quiet))
    assert [measure.presence for measure in of(commands, c.MeasureLoad)] == [True]
    [sync] = of(commands + world.wait(1), c.Sync)
    assert sync.plan.status is not None
    assert sync.plan.status.mode == "quiet"


def test_a_mode_may_let_work_be_asked_for_again() -> None:
    world = World(facts(cores=2)).working(1)
    assert world.state.sync.out_of_work
    world.do(e.ModeChosen(now=world.now, mode=""))
    assert not world.state.sync.out_of_work


def test_contact_that_a_person_asks_for_does_not_wait() -> None:
    world = World()
    for _ in range(5):
        world.do(e.SyncFailed(now=world.now, problem="away", jitter=0.5))
        world.now = world.state.sync.not_before
        world.do(e.TimerFired(now=world.now))
    world.do(e.SyncFailed(now=world.now, problem="away", jitter=0.5))
    assert world.state.sync.not_before > world.now
    assert of(world.do(e.SyncRequested(now=world.now)), c.Sync)


# --- stops ----------------------------------------------------------------------------------------


def test_a_stop_in_a_hurry_ends_at_once() -> None:
    world = World().working(2)
    commands = world.do(e.StopRequested(now=world.now, reason="SIGTERM", hurry=True))
    assert [exit_.reason for exit_ in of(commands, c.Exit)] == ["SIGTERM"]


def test_a_stop_ends_paused_tasks_too_and_gives_back_those_not_begun() -> None:
    world = World(facts(cores=1)).working(2)
    world.do(e.PauseRequested(now=world.now))
    assert world.phases() == {1: "paused", 2: "queued"}
    commands = world.do(e.StopRequested(now=world.now, reason="SIGTERM"))
    assert logged(commands) == ["stopping: SIGTERM"]
    assert [(stop.task_id, stop.grace_seconds) for stop in of(commands, c.StopTask)] == [(1, 5.0)]
    [save] = of(commands, c.SaveReport)
    assert (save.report.task_id, save.report.message) == (2, "given back: the agent stopped")


def test_a_stop_keeps_a_waiting_task_that_has_begun() -> None:
    record = TaskRecord(
        grant=grant(1), order=0, lease_until_wall=WALL + 1e5, accepted=True, attempts=1
    )
    world = World(tasks=[record])
    world.do(e.StopRequested(now=world.now, reason="SIGTERM"))
    assert not world.saying(c.SaveReport)


def test_a_stop_sends_the_last_reports_without_waiting_for_the_time_of_the_next_try() -> None:
    world = World(facts(cores=1)).working(2)
    world.ended(1)
    world.wait(1)
    for _ in range(4):
        if world.state.sync.in_flight is None:
            world.now = world.state.sync.not_before
            world.do(e.TimerFired(now=world.now))
        world.do(e.SyncFailed(now=world.now, problem="away", again=False, jitter=0.5))
    world.do(e.StopRequested(now=world.now, reason="SIGTERM"))
    [sync] = of(world.ended(2, "cancelled"), c.Sync)
    assert sync.plan.report_ids == [1]


def test_what_is_open_after_a_while_waits_for_the_next_start() -> None:
    world = World(facts(cores=1)).working(1)
    world.do(e.StopRequested(now=world.now, reason="SIGTERM"))
    assert not of(world.wait(STOP_SECONDS - 0.1), c.Exit)
    assert [exit_.fault for exit_ in of(world.wait(0.1), c.Exit)] == [""]


def test_a_run_of_limited_length_stops_at_its_second_and_says_why() -> None:
    world = World(facts(cores=1), seconds=30.0).working(1)
    world.wait(30.0 - (world.now - 1000.0) - 0.1)
    assert not world.saying(c.StopTask)
    commands = world.wait(0.1)
    assert of(commands, c.StopTask)
    assert logged(commands) == ["stopping: the time given by --seconds is over"]


# --- what else changes on the host ----------------------------------------------------------------


def test_new_limits_are_told_to_the_server_at_once() -> None:
    world = World(facts(cores=1)).working(4)
    assert of(world.do(e.ConfigChanged(now=world.now, limits=Limits(cpu_cores=1))), c.Sync)


def test_no_memory_is_short_while_as_much_is_free_as_is_to_be_kept() -> None:
    world = World(facts(cores=2), limits=Limits(memory_keep_free=1e9)).working(2)
    world.do(e.PauseRequested(now=world.now))
    world.do(e.LoadMeasured(now=world.now, load=Load(memory_available_bytes=10**9)))
    assert not world.saying(c.StopTask)
    world.wait(MEASURE_SECONDS)
    world.do(e.LoadMeasured(now=world.now, load=Load(memory_available_bytes=10**9 - 1)))
    assert [stop.task_id for stop in world.saying(c.StopTask)] == [2], "though it is paused"


def test_a_gpu_that_is_gone_does_not_come_back_as_another() -> None:
    world = World(facts(cores=1, gpus=2))
    world.answer(grant(1, device="gpu"), grant(2, device="gpu"))
    world.fetched(resources=Resources(gpus=1, gpu_share=1.0))
    assert [task.gpus for task in world.state.tasks.values()] == [[0], [1]]
    world.do(e.FactsProbed(now=world.now, facts=facts(cores=1, gpus=1)))
    assert [task.gpus for task in world.state.tasks.values()] == [[0], [-1]]
    other = facts(cores=1, gpus=3)
    other.gpus[:] = other.gpus[2:] + other.gpus[:1]
    world.do(e.FactsProbed(now=world.now, facts=other))
    assert [task.gpus for task in world.state.tasks.values()] == [[1], [-1]]
