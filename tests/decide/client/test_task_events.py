"""From the start of a task's process to its report: what is counted, kept, reset and said."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.model import Limits, Load
from axiom_client.decide.place import ran_seconds
from axiom_client.decide.task_run import limits_for
from axiom_protocol.manifest import Cohort, Resources
from axiom_protocol.messages import Outcome, Report
from tests.support.world import SHA, World, facts, grant, of

ONE_GPU = Resources(memory_bytes=100_000_000, disk_bytes=1_000_000, gpu_memory_bytes=1 << 30)


def reported(commands: list[c.Command]) -> Report:
    [save] = of(commands, c.SaveReport)
    return save.report


def together(count: int, *, gpus: int = 0) -> World:
    """A cohort of ``count`` tasks that runs, on one core or one GPU."""
    world = World(facts(cores=1, gpus=gpus, gpu_cohort=256))
    device = "gpu" if gpus else "cpu"
    world.answer(*[grant(i + 1, device=device) for i in range(count)])
    world.fetched(
        cohort=Cohort(most=64, most_on_core=64), resources=ONE_GPU if gpus else Resources()
    )
    world.hear_nothing()
    return world


# --- it runs --------------------------------------------------------------------------------------


def test_time_counts_from_the_start_of_the_process_without_pauses() -> None:
    world = World(facts(cores=1)).working(1)
    world.wait(5)
    world.do(e.TaskStarted(now=world.now, task_id=1, pid=42))
    world.do(e.TaskStarted(now=world.now, task_id=99, pid=43))  # not in hand any more
    world.wait(0.5)
    assert ran_seconds(world.state.tasks[1], world.now) == 0.5
    world.do(e.PauseRequested(now=world.now))
    world.wait(100)
    world.do(e.TaskStarted(now=world.now, task_id=1, pid=42))
    assert ran_seconds(world.state.tasks[1], world.now) == 0.5
    world.do(e.ResumeRequested(now=world.now))
    world.wait(2)
    assert ran_seconds(world.state.tasks[1], world.now) == 2.5
    world.do(e.AbortRequested(now=world.now, task_id=1))
    world.wait(1)
    assert world.phases() == {1: "stopping"}
    assert ran_seconds(world.state.tasks[1], world.now) == 3.5


def test_progress_never_falls_within_a_run() -> None:
    world = World(facts(cores=1)).working(2)
    for task_id, fraction in ((1, 0.25), (1, 0.75), (1, 0.5), (2, 0.5), (99, 0.5)):
        world.do(e.TaskProgressed(now=world.now, task_id=task_id, fraction=fraction))
    assert {i: task.progress for i, task in world.state.tasks.items()} == {1: 0.75, 2: 0.0}
    world.do(e.SyncRequested(now=world.now))
    plan = world.saying(c.Sync)[-1].plan
    assert {task.task_id: (task.state, task.progress) for task in plan.in_hand} == {
        1: ("running", 0.75), 2: ("queued", 0.0),
    }  # fmt: skip


def test_a_run_begins_without_the_progress_and_the_time_of_the_one_before() -> None:
    world = World(facts(cores=1)).working(1)
    world.do(e.TaskProgressed(now=world.now, task_id=1, fraction=0.75))
    world.wait(5)
    world.do(e.PauseRequested(now=world.now))
    world.do(e.ResumeRequested(now=world.now))
    world.ended(1, "lost")
    world.fetched()
    world.wait(60)
    task = world.state.tasks[1]
    assert (task.phase, task.progress, task.ran_seconds) == ("running", 0.0, 0.0)


# --- it ends --------------------------------------------------------------------------------------


def test_a_report_has_what_the_process_used_over_all_its_runs() -> None:
    world = World(facts(cores=1)).working(1)
    used: dict[str, Any] = {"elapsed_seconds": 10.0, "cpu_user_seconds": 7.0,
                            "cpu_system_seconds": 2.0, "peak_memory_bytes": 5_000}  # fmt: skip
    world.ended(1, "lost", **used)
    world.fetched()
    world.wait(60)
    world.hear_nothing()
    report = reported(world.ended(1, message="a note", **used))
    assert report == Report(
        task_id=1, outcome="success", elapsed_seconds=20.0, cpu_seconds=18.0,
        peak_memory_bytes=5_000, result={"valid": 1, "configs_done": 1}, message="a note",
        attempts=2,
    )  # fmt: skip
    [task] = world.state.tasks.values()
    expected = len(msgspec.json.encode(report.result)) + len("a note")
    assert (task.outcome, task.report_bytes) == ("success", expected)


def test_only_a_success_has_a_result() -> None:
    world = World(facts(cores=1)).working(1)
    report = reported(world.ended(1, "failed", result={"valid": 1}, message="boom"))
    assert (report.result, report.message) == (None, "boom")


def test_a_task_that_finishes_at_the_deadline_of_a_drain_is_a_success() -> None:
    world = World(facts(cores=1)).working(1)
    world.do(e.DrainRequested(now=world.now, reason="moving", deadline_seconds=10.0))
    world.wait(11)
    assert world.phases() == {1: "stopping"}
    report = reported(world.ended(1, message="a note"))
    assert (report.outcome, report.message) == ("success", "a note")
    assert report.result == {"valid": 1, "configs_done": 1}


@pytest.mark.parametrize(
    ("message", "last"),
    [("", ""), ("  \n", ""), ("one", "one"), ("one\ntwo\nthree\n", "three")],
)
def test_the_log_has_the_last_line_of_a_failure(message: str, last: str) -> None:
    world = World(facts(cores=1)).working(1)
    world.ended(1, "failed", message=message)
    assert world.said("ended:") == [
        ("warning", f"task 1 of walk@1.0.0 ended: failed: {last}")
    ]  # fmt: skip


def test_a_success_is_said_with_the_time_of_all_runs() -> None:
    world = World(facts(cores=1)).working(1)
    world.ended(1, "lost", elapsed_seconds=10.0)
    world.fetched()
    world.wait(60)
    world.ended(1, elapsed_seconds=2.25)
    assert world.said("is done") == [("info", "task 1 of walk@1.0.0 is done after 12.2 s")]


def test_the_duration_of_a_process_is_that_of_all_its_seeds() -> None:
    world = together(4)
    world.ended(1, elapsed_seconds=10.0)
    assert world.state.durations == {"walk@1.0.0": 40.0}


def test_durations_on_a_gpu_are_kept_apart() -> None:
    world = together(1, gpus=1)
    world.ended(1, elapsed_seconds=10.0)
    assert world.state.durations == {"walk@1.0.0+gpu": 10.0}


# --- it runs again --------------------------------------------------------------------------------


def test_a_task_that_waits_again_holds_nothing() -> None:
    """And nothing of the stop is left that made it wait."""
    world = together(2, gpus=1)
    world.do(e.ConfigChanged(now=world.now, limits=Limits(memory_keep_free=1e9)))
    short = Load(memory_available_bytes=10**8)
    world.do(e.LoadMeasured(now=world.now, load=short))
    running = world.state.tasks[2]
    assert (running.phase, running.keep, running.gpus) == ("stopping", True, [0])
    assert (running.cohort, running.cohort_size) == (1, 2)
    world.ended(2, "cancelled", elapsed_seconds=7.0)
    task = world.state.tasks[2]
    assert (task.phase, task.keep, task.gpus) == ("queued", False, [])
    assert (task.cohort, task.cohort_size, task.record.elapsed_seconds) == (0, 1, 7.0)
    assert world.said("task 2") == [
        ("warning", "task 2 of walk@1.0.0 is stopped until later: memory is short"),
        ("info", "task 2 of walk@1.0.0 is stopped until later"),
    ]


@pytest.mark.parametrize("outcome", ["failed", "over_memory", "lost"])
def test_a_cohort_that_ends_together_runs_again_at_once_in_smaller_ones(outcome: Outcome) -> None:
    world = together(8)
    for task_id in range(1, 9):
        world.ended(task_id, outcome, shared=True, message="all")
    assert world.said("task 8 of walk@1.0.0 runs") == [
        ("warning", "task 8 of walk@1.0.0 runs again in a cohort of at most 2: "
                    f"its cohort of 8 ended as {outcome}")
    ]  # fmt: skip
    assert not world.saying(c.SaveReport)
    assert world.saying(c.StartTask)[-1].spec.task_ids == [1, 2]


def test_the_last_of_a_cohort_that_is_cancelled_does_not_run_again() -> None:
    world = together(2)
    for task_id in (1, 2):
        world.do(e.AbortRequested(now=world.now, task_id=task_id))
    report = reported(world.ended(2, "lost", shared=True))
    assert (report.task_id, report.outcome) == (2, "lost")


def test_a_cohort_that_an_agent_stops_is_not_made_smaller_by_its_end() -> None:
    """It ended because it was asked to, and each task has its checkpoint."""
    world = together(4)
    world.do(e.StopRequested(now=world.now, reason="SIGTERM"))
    world.ended(1, "cancelled")
    assert world.state.tasks[1].record.cohort_most == 0


def test_lost_tasks_have_their_bundle_verified_once() -> None:
    world = World(facts(cores=2)).working(2)
    first = of(world.ended(1, "lost"), c.FetchBundle)
    assert [(fetch.experiment, fetch.version, fetch.sha256, fetch.accepted) for fetch in first] == [
        ("walk", "1.0.0", SHA, True)
    ]
    assert world.state.bundles[SHA].fetching is True
    assert not of(world.ended(2, "lost"), c.FetchBundle)


def test_a_cancelled_task_ends_though_an_earlier_stop_was_for_later() -> None:
    world = World(facts(cores=1), limits=Limits(memory_keep_free=1e9)).working(1)
    world.do(e.LoadMeasured(now=world.now, load=Load(memory_available_bytes=10**8)))
    world.ended(1, "cancelled")
    world.do(e.LoadMeasured(now=world.now, load=Load(memory_available_bytes=10**11)))
    assert world.phases() == {1: "running"}
    world.do(e.AbortRequested(now=world.now, task_id=1))
    assert reported(world.ended(1, "cancelled")).outcome == "cancelled"


# --- it is cancelled ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_a_paused_task_can_be_cancelled(count: int) -> None:
    world = together(count)
    world.do(e.PauseRequested(now=world.now))
    commands = world.do(e.AbortRequested(now=world.now, task_id=1))
    assert len(of(commands, c.StopTask)) == (1 if count == 1 else 0)
    assert world.phases()[1] == ("stopping" if count == 1 else "ended")


def test_a_member_that_is_cancelled_is_reported_with_its_share_of_the_time() -> None:
    world = together(4)
    world.do(e.TaskStarted(now=world.now, task_id=2, pid=1))
    world.wait(100)
    report = reported(world.do(e.AbortRequested(now=world.now, task_id=2)))
    assert (report.outcome, report.elapsed_seconds) == ("cancelled", 25.0)


def test_a_task_that_the_server_cancels_says_so() -> None:
    world = World(facts(cores=1)).working(2)
    world.do(e.SyncRequested(now=world.now))
    report = reported(world.answer(cancelled=[2]))
    assert (report.task_id, report.message) == (2, "cancelled by the server")
    assert world.said("is cancelled") == [
        ("info", "task 2 of walk@1.0.0 is cancelled by the server")
    ]  # fmt: skip


# --- limits of a run ------------------------------------------------------------------------------


def test_a_run_may_take_ten_times_as_long_as_expected_and_five_minutes_at_least() -> None:
    needs = Resources(cpu_cores=2, memory_bytes=5, disk_bytes=7)
    long, short = limits_for(needs, 100.0), limits_for(needs, 1.0)
    assert (long.wall_seconds, long.cpu_seconds) == (1000.0, 3000.0)
    assert (short.wall_seconds, short.cpu_seconds) == (300.0, 900.0)
    assert (long.memory_bytes, long.disk_bytes) == (5, 7)


@pytest.mark.parametrize(("seeds", "seconds"), [(1, 600.0), (4, 600.0), (16, 1200.0)])
def test_a_cohort_on_a_gpu_may_be_as_slow_as_on_eight_cores(seeds: int, seconds: float) -> None:
    [start] = together(seeds, gpus=1).saying(c.StartTask)
    assert len(start.spec.task_ids) == seeds
    assert start.spec.limits.wall_seconds == seconds
