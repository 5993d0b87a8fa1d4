"""Tasks that would be late: what runs and waits before them, on cores and on GPUs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_protocol.manifest import Resources
from tests.support.world import World, facts, grant

SMALL = {"memory_bytes": 100_000_000, "disk_bytes": 1_000_000}


def given_back(world: World) -> list[int]:
    """The tasks given back so far, each a minute long."""
    message = "given back: this host could not finish it before its deadline"
    reports = [save.report for save in world.saying(c.SaveReport)]
    return [report.task_id for report in reports if report.message == message]


def granted(cores: int, tasks: int, lease_seconds: float, **needs: Any) -> World:
    world = World(facts(cores=cores))
    world.answer(*[grant(i + 1, lease_seconds=lease_seconds) for i in range(tasks)])
    world.fetched(resources=Resources(**{**SMALL, **needs}))
    return world


@pytest.mark.parametrize(
    ("cores", "tasks", "lease_seconds", "late"),
    [
        (1, 3, 180.0, []),
        (1, 3, 179.9, [3]),
        (1, 3, 119.9, [2, 3]),
        (1, 1, 59.9, [1]),
        (2, 4, 150.0, []),  # three minutes of work for two cores are before the last one
        (2, 4, 149.9, [4]),
        (2, 4, 119.9, [3, 4]),
    ],
)
def test_tasks_that_would_be_late_behind_others_are_given_back(
    cores: int, tasks: int, lease_seconds: float, late: list[int]
) -> None:
    assert given_back(granted(cores, tasks, lease_seconds)) == late


def test_a_task_on_two_cores_is_twice_the_work_for_those_behind_it() -> None:
    assert given_back(granted(2, 3, 179.9, cpu_cores=2)) == [3]
    assert given_back(granted(2, 3, 180.0, cpu_cores=2)) == []


@pytest.mark.parametrize("paused", [False, True])
def test_the_time_that_a_task_has_run_is_not_ahead_any_more(paused: bool) -> None:
    """Fifty of its sixty seconds are over, and the next one has seventy left."""
    world = granted(1, 2, 120.0)
    world.wait(50)
    world.do(e.PauseRequested(now=world.now) if paused else e.TimerFired(now=world.now))
    assert given_back(world) == []
    world.now += 0.2
    world.do(e.TimerFired(now=world.now))
    assert given_back(world) == ([2] if paused else [])


def test_a_task_that_takes_longer_than_expected_may_end_at_any_time() -> None:
    world = granted(1, 2, 1060.0)
    world.wait(1000)
    world.do(e.TimerFired(now=world.now))
    assert given_back(world) == []
    world.wait(0.2)
    world.do(e.TimerFired(now=world.now))
    assert given_back(world) == [2]


def test_what_has_begun_or_ended_is_not_given_back() -> None:
    world = granted(2, 3, 100.0)
    assert given_back(world) == [3]
    world.ended(1, "lost")
    world.wait(200)
    assert given_back(world) == [3]


@pytest.mark.parametrize(("lease_seconds", "late"), [(60.0, []), (59.9, [2])])
def test_tasks_that_have_ended_are_not_ahead(lease_seconds: float, late: list[int]) -> None:
    world = granted(1, 2, 500.0)
    waits = world.state.tasks[2]
    world.do(e.PauseRequested(now=world.now))
    world.ended(1)
    lease = msgspec.structs.replace(
        waits.record, accepted=True, lease_until_wall=world.state.wall + lease_seconds
    )
    world.state.tasks[2] = msgspec.structs.replace(waits, record=lease)
    world.do(e.TimerFired(now=world.now))
    assert world.state.tasks[1].phase == "ended"
    assert given_back(world) == late


def test_the_time_of_a_run_that_was_lost_is_ahead_again() -> None:
    world = granted(1, 2, 130.0)
    world.wait(30)
    world.do(e.PauseRequested(now=world.now))
    world.do(e.ResumeRequested(now=world.now))
    world.ended(1, "lost")
    assert given_back(world) == [2]


def test_work_for_cores_and_for_gpus_does_not_delay_each_other() -> None:
    world = World(facts(cores=1, gpus=1))
    on_gpu = [grant(i, device="gpu", lease_seconds=60.0) for i in (1, 2, 3)]
    on_core = [grant(i, lease_seconds=120.0) for i in (4, 5, 6)]
    last = [grant(i, device="gpu", lease_seconds=i + 52.0) for i in (7, 8)]
    world.answer(*on_gpu, *on_core, *last)
    world.fetched(resources=Resources(**SMALL))
    assert given_back(world) == [6, 7]
