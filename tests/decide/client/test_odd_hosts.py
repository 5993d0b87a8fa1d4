"""Hosts with two kinds of cores, GPUs of two vendors, cores that come and go; and a sleep."""

from __future__ import annotations

import msgspec
import pytest

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.agent import SLEEP_SECONDS
from axiom_client.decide.allocate import task_seconds
from axiom_protocol.manifest import Resources
from axiom_protocol.messages import GpuFacts
from tests.support.world import World, facts, grant, of

CARDS = [
    GpuFacts(uuid="GPU-a", name="RTX", memory_bytes=8 << 30, backend="cuda"),
    GpuFacts(uuid="0", name="RX", memory_bytes=16 << 30, backend="rocm"),
    GpuFacts(uuid="1", name="RX", memory_bytes=16 << 30, backend="rocm"),
]
HOUR = 3600.0


# ---- durations


def test_durations_of_both_kinds_of_cores_are_kept_apart() -> None:
    world = World(facts(cores=2)).working(4)
    world.ended(1, elapsed_seconds=100.0)
    world.ended(2, elapsed_seconds=300.0, core_kind="efficiency")
    assert world.state.durations == {"walk@1.0.0": 100.0, "walk@1.0.0+efficiency": 300.0}
    world.ended(3, elapsed_seconds=400.0, core_kind="efficiency")
    assert world.state.durations["walk@1.0.0"] == 100.0
    assert world.state.durations["walk@1.0.0+efficiency"] == pytest.approx(330.0)
    [saved, *_] = reversed(world.saying(c.SaveValue))
    assert saved.value == world.state.durations


def test_a_task_is_expected_to_take_the_mean_of_both() -> None:
    world = World(facts(cores=1)).working(2)
    waiting = world.state.tasks[2]
    both = {"walk@1.0.0": 100.0, "walk@1.0.0+efficiency": 300.0}
    assert task_seconds(waiting, {}, both) == 200.0
    assert task_seconds(waiting, {}, {"walk@1.0.0+efficiency": 300.0}) == 300.0
    assert task_seconds(waiting, {}, {"walk@1.0.0": 100.0}) == 100.0


def test_both_kinds_of_cores_are_used() -> None:
    """A core is a slot, whatever its kind."""
    world = World(facts(cores=20)).working(20)
    assert list(world.phases().values()).count("running") == 20


# ---- GPUs of two vendors


def on_gpus(world: World, number: int, count: int) -> list[list[str]]:
    """The GPUs of each task that starts, when ``count`` tasks need ``number`` of them each."""
    world.answer(*[grant(i + 1, device="gpu") for i in range(count)])
    commands = world.fetched(resources=Resources(gpus=number, gpu_share=1.0))
    return [[gpu.uuid for gpu in start.gpus] for start in of(commands, c.StartTask)]


def with_cards(*cards: GpuFacts) -> World:
    return World(msgspec.structs.replace(facts(cores=4), gpus=list(cards)))


def test_each_vendor_s_gpus_are_used() -> None:
    assert sorted(on_gpus(with_cards(*CARDS), 1, 3)) == [["0"], ["1"], ["GPU-a"]]


def test_a_task_never_gets_gpus_of_two_vendors() -> None:
    assert on_gpus(with_cards(*CARDS), 2, 1) == [["0", "1"]]
    world = with_cards(*CARDS[:2])
    assert on_gpus(world, 2, 1) == []
    assert world.phases() == {1: "ended"}  # given back: it can never run here


# ---- cores that come and go


def test_unplugged_cores_pause_the_latest_tasks_and_plugged_ones_resume_them() -> None:
    world = World(facts(cores=4)).working(6)
    commands = world.do(e.FactsProbed(now=world.now, facts=facts(cores=2)))
    assert [pause.task_id for pause in of(commands, c.PauseTask)] == [3, 4]
    assert world.saying(c.Sync)[-1].plan.host == facts(cores=2)  # the server is told
    commands = world.do(e.FactsProbed(now=world.now, facts=facts(cores=5)))
    assert [resumed.task_id for resumed in of(commands, c.ResumeTask)] == [3, 4]
    assert [start.task_id for start in of(commands, c.StartTask)] == [5]


def test_a_cpuset_that_shrinks_to_one_core_leaves_one_task_running() -> None:
    world = World(facts(cores=4)).working(4)
    world.do(e.FactsProbed(now=world.now, facts=facts(cores=1)))
    assert list(world.phases().values()).count("running") == 1


# ---- a laptop's sleep


def sleep(world: World, seconds: float) -> list[c.Command]:
    """The monotonic clock of Linux and macOS stands still; only the wall clock goes on."""
    wall = world.now + world.state.wall_offset + seconds
    return world.do(e.ClockChanged(now=world.now, wall=wall, utc_offset_seconds=0))


def test_after_a_sleep_within_the_lease_tasks_go_on_and_the_server_is_asked() -> None:
    world = World(facts(cores=2)).working(3)
    world.commands.clear()
    commands = sleep(world, 0.5 * HOUR)
    assert world.phases() == {1: "running", 2: "running", 3: "queued"}
    [sync] = of(commands, c.Sync)
    assert [task.task_id for task in sync.plan.in_hand] == [1, 2, 3]
    assert not of(commands, c.StopTask)


def test_a_sleep_begins_at_a_minute() -> None:
    world = World(facts(cores=2)).working(2)
    world.wait(1)
    assert of(sleep(world, SLEEP_SECONDS), c.Sync)


def test_after_a_night_what_had_not_begun_is_given_back_and_what_ran_goes_on() -> None:
    world = World(facts(cores=2)).working(3)
    sleep(world, 9 * HOUR)
    assert world.phases() == {1: "running", 2: "running", 3: "ended"}
    for task_id in (1, 2):
        world.ended(task_id)
    outcomes = {save.report.task_id: save.report.outcome for save in world.saying(c.SaveReport)}
    assert outcomes == {1: "success", 2: "success", 3: "cancelled"}


def test_a_clock_that_is_set_a_little_asks_nobody() -> None:
    world = World(facts(cores=2)).working(2)
    assert not of(sleep(world, SLEEP_SECONDS - 1), c.Sync)
    assert not of(sleep(world, -HOUR), c.Sync)
    assert not of(sleep(World(facts(cores=2)).working(0), HOUR), c.Sync)  # nothing in hand


def test_a_pause_until_a_time_of_day_ends_in_a_sleep() -> None:
    world = World(facts(cores=1)).working(1)
    world.do(e.PauseRequested(now=world.now, for_seconds=HOUR))
    assert world.phases() == {1: "paused"}
    sleep(world, 2 * HOUR)
    assert world.phases() == {1: "running"}
