"""How many processes may wait with loaded libraries: memory, pauses, the volunteer's limits."""

from __future__ import annotations

from itertools import pairwise

import pytest

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.model import Limits, Load
from axiom_client.decide.standby import STANDBY_BYTES
from axiom_client.decide.warm import RELEASE_SECONDS
from axiom_protocol.manifest import Resources
from tests.support.world import World, facts


def allowed(world: World) -> int:
    """What the last command allows; 0 before the first."""
    return ([0] + [command.processes for command in world.saying(c.AllowStandby)])[-1]


def test_they_wait_only_while_there_is_work() -> None:
    world = World(facts(cores=2))
    assert allowed(world) == 0
    world.working(2)
    assert allowed(world) == 2
    world.ended(1)
    world.ended(2)
    world.hear_nothing()
    assert allowed(world) == 0


@pytest.mark.parametrize(("cores", "most"), [(1, 2), (8, 2), (9, 3), (64, 9)])
def test_their_number_follows_the_cores(cores: int, most: int) -> None:
    assert allowed(World(facts(cores=cores)).working(1)) == most


@pytest.mark.parametrize(
    ("left_bytes", "processes"),
    [(0, 0), (STANDBY_BYTES - 1, 0), (STANDBY_BYTES, 1), (10 * STANDBY_BYTES, 2)],
)
def test_they_get_what_tasks_leave_of_the_memory(left_bytes: int, processes: int) -> None:
    world = World(
        facts(cores=1, memory_bytes=2_000_000_000 + left_bytes), limits=Limits(memory_share=1.0)
    )
    world.working(1)
    world.fetched(resources=Resources(memory_bytes=2_000_000_000, disk_bytes=1_000_000))
    assert allowed(world) == processes


@pytest.mark.parametrize(
    ("free_bytes", "processes"),
    [(None, 0), (0, 0), (STANDBY_BYTES, 0), (2 * STANDBY_BYTES, 1), (9 * STANDBY_BYTES, 2)],
)
def test_memory_that_an_owner_keeps_free_stays_free(free_bytes: int | None, processes: int) -> None:
    """What is free now counts, beyond what is kept."""
    kept = 1_000_000_000
    world = World(facts(cores=2), limits=Limits(memory_keep_free=kept)).working(2)
    assert allowed(world) == 0  # not measured yet
    available = None if free_bytes is None else kept + free_bytes
    world.do(e.LoadMeasured(now=world.now, load=Load(memory_available_bytes=available)))
    assert allowed(world) == processes


def test_they_end_before_a_task_must_and_do_not_come_and_go() -> None:
    world = World(facts(cores=2), limits=Limits(memory_keep_free=1e9)).working(2)
    said = []
    for free in (2, 1, 0.6, 0.4, 1, 2):  # of one waiting process each
        load = Load(memory_available_bytes=int(1e9 + free * STANDBY_BYTES))
        world.do(e.LoadMeasured(now=world.now, load=load))
        said.append(allowed(world))
    assert said == [1, 1, 1, 0, 0, 1]
    assert not world.saying(c.StopTask)


def test_a_limit_that_is_lowered_ends_them_and_one_that_is_raised_brings_them_back() -> None:
    world = World(facts(cores=2)).working(2)
    world.do(e.ConfigChanged(now=world.now, limits=Limits(memory_keep_free=0.99)))
    assert allowed(world) == 0
    world.do(e.ConfigChanged(now=world.now, limits=Limits()))
    assert allowed(world) == 2
    world.do(e.ConfigChanged(now=world.now, limits=Limits(memory_share=0.001)))
    assert allowed(world) == 0


def test_none_waits_while_no_task_may_run() -> None:
    world = World(facts(cores=2), limits=Limits(while_in_use=False)).working(2)
    world.do(e.LoadMeasured(now=world.now, load=Load(in_use=True)))
    assert allowed(world) == 0
    world.do(e.LoadMeasured(now=world.now, load=Load()))
    assert allowed(world) == 2
    world.do(e.PauseRequested(now=world.now))
    assert allowed(world) == 0
    world.do(e.ResumeRequested(now=world.now))
    world.do(e.DrainRequested(now=world.now, reason="moving"))
    assert allowed(world) == 0


def test_each_change_is_said_once() -> None:
    world = World(facts(cores=2)).working(4)
    world.wait(RELEASE_SECONDS)
    said = [command.processes for command in world.saying(c.AllowStandby)]
    assert all(one != other for one, other in pairwise(said))
