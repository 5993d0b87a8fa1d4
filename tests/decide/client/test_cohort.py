"""The agent and cohorts: which tasks share a process, and how each of them ends."""

from __future__ import annotations

from typing import Any

import pytest

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_protocol.manifest import Cohort, Resources
from tests.support.world import World, facts, grant

NEEDS = Resources(memory_bytes=100_000_000, disk_bytes=1_000_000, gpu_memory_bytes=1 << 30)


def running(count: int = 4, **changes: Any) -> World:
    """A host with one GPU and ``count`` tasks that may share it."""
    world = World(facts(cores=2, gpus=1, gpu_cohort=256))
    world.answer(*[grant(i + 1, device="gpu") for i in range(count)])
    cohort = changes.pop("cohort", Cohort(most=64, seed_gpu_memory_bytes=1 << 20))
    world.fetched(resources=NEEDS, cohort=cohort, dependencies=["torch"], **changes)
    return world


def starts(commands: list[c.Command]) -> list[list[int]]:
    return [command.spec.task_ids for command in commands if isinstance(command, c.StartTask)]


def of(world: World, kind: type[Any]) -> list[Any]:
    return [command for command in world.commands if isinstance(command, kind)]


def test_tasks_of_one_parameter_set_share_a_process() -> None:
    world = World(facts(gpus=1, gpu_cohort=256))
    world.answer(
        grant(1, device="gpu"), grant(2, device="gpu", parameters={"steps": 5}),
        grant(3, device="gpu"), grant(4, device="gpu", budget_seconds=5.0), grant(5, device="gpu"),
    )  # fmt: skip
    world.fetched(resources=NEEDS, cohort=Cohort(most=64), dependencies=["torch"])
    assert starts(world.commands) == [[1, 3, 5]]
    assert [m.seed for m in of(world, c.StartTask)[0].spec.others] == [3, 5]


@pytest.mark.parametrize(
    ("cohort", "first"),
    [
        (None, 1),
        (Cohort(most=3), 3),
        (Cohort(most=64, seed_gpu_memory_bytes=2 << 30), 4),  # of 8 GiB: 1 + 3 x 2
        (Cohort(most=64, seed_memory_bytes=20_000_000_000), 3),  # of 48 GB
    ],
)
def test_as_many_as_the_bundle_and_the_memory_allow(cohort: Cohort | None, first: int) -> None:
    assert len(starts(running(10, cohort=cohort).commands)[0]) == first


def test_cores_are_filled_before_tasks_share_one() -> None:
    world = World(facts(cores=4))
    world.answer(*[grant(i + 1) for i in range(10)])
    world.fetched(cohort=Cohort(most=64, most_on_core=8))
    sizes = [len(ids) for ids in starts(world.commands)]
    assert sizes == [3, 3, 2, 2]


def test_each_member_is_reported_apart() -> None:
    world = running(3)
    world.ended(1)
    world.ended(2, "failed", message="its own")
    world.ended(3)
    reports = {r.report.task_id: r.report for r in of(world, c.SaveReport)}
    assert {i: r.outcome for i, r in reports.items()} == {1: "success", 2: "failed", 3: "success"}


def test_a_cohort_whose_process_ends_is_repeated_in_smaller_cohorts() -> None:
    world = running(16)
    sizes: list[int] = []
    while not of(world, c.SaveReport):
        batch = starts(world.commands)[-1]
        sizes.append(len(batch))
        shared = len(batch) > 1
        for task_id in batch:
            world.ended(task_id, "over_memory", message="all", shared=shared)
        assert len(sizes) < 10
    assert sizes == [16, 4, 1]
    assert of(world, c.SaveReport)[0].report.outcome == "over_memory"


def test_a_cohort_whose_process_is_lost_runs_again_together() -> None:
    world = running(4)
    for task_id, jitter in ((1, 0.9), (2, 0.1), (3, 0.5), (4, 0.7)):
        world.ended(task_id, "lost", jitter=jitter)
    world.fetched(resources=NEEDS, cohort=Cohort(most=64), dependencies=["torch"])
    assert not starts(world.commands)[1:]  # each waits
    world.wait(10)
    assert starts(world.commands)[1:] == [[2, 1, 3, 4]]


def test_cancelling_one_leaves_the_others_running() -> None:
    world = running(3)
    world.do(e.AbortRequested(now=world.now, task_id=1))  # the first names the process
    assert not of(world, c.StopTask)
    assert not of(world, c.ClearFolder)
    assert [r.report.outcome for r in of(world, c.SaveReport)] == ["cancelled"]
    world.ended(1)
    world.ended(2)
    world.ended(3)
    outcomes = {r.report.task_id: r.report.outcome for r in of(world, c.SaveReport)}
    assert outcomes == {1: "cancelled", 2: "success", 3: "success"}
    assert {f.task_id for f in of(world, c.ClearFolder)} == {1, 2, 3}


def test_cancelling_the_last_one_ends_the_process() -> None:
    world = running(2)
    world.do(e.AbortRequested(now=world.now, task_id=1))
    world.do(e.AbortRequested(now=world.now, task_id=2))
    assert [s.task_id for s in of(world, c.StopTask)] == [1]


def test_a_pause_suspends_the_process_once_and_resumes_it_once() -> None:
    world = running(3)
    world.do(e.PauseRequested(now=world.now))
    assert [p.task_id for p in of(world, c.PauseTask)] == [1]
    assert {t.phase for t in world.state.tasks.values()} == {"paused"}
    world.do(e.ResumeRequested(now=world.now))
    assert [p.task_id for p in of(world, c.ResumeTask)] == [1]
    assert {t.phase for t in world.state.tasks.values()} == {"running"}


def test_after_kill_9_the_seeds_run_again_together() -> None:
    before = running(3)
    records = [s.record for s in of(before, c.SaveTask)][-3:]
    world = World(facts(cores=2, gpus=1, gpu_cohort=256), tasks=records)
    world.fetched(resources=NEEDS, cohort=Cohort(most=64), dependencies=["torch"])
    assert starts(world.commands) == [[1, 2, 3]]


def test_a_stopping_agent_keeps_every_seed() -> None:
    world = running(3)
    world.do(e.StopRequested(now=world.now, reason="shutdown"))
    for task_id in (1, 2, 3):
        world.ended(task_id, "cancelled")
    assert not of(world, c.SaveReport)
    assert {t.phase for t in world.state.tasks.values()} == {"queued"}


def test_a_cancelled_member_says_why() -> None:
    world = running(3)
    world.do(e.AbortRequested(now=world.now, task_id=2))
    [report] = [saved.report for saved in of(world, c.SaveReport)]
    assert (report.outcome, report.message) == ("cancelled", "ended by the host's owner")
