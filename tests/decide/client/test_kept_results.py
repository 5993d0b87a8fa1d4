"""Acknowledged results are kept, within limits, in case the server is restored from a backup."""

from __future__ import annotations

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide import kept_results
from axiom_client.decide.model import KeptResult
from axiom_protocol.messages import Acknowledgement
from tests.support.world import World, grant, of


def done_and_acknowledged(epoch: str = "one", refusal: str = "", outcome: str = "success") -> World:
    world = World()
    world.answer(grant(1), epoch=epoch)
    world.fetched()
    world.wait(1)
    if world.state.sync.in_flight is not None:
        world.answer(epoch=epoch)
    world.ended(1, outcome)
    world.wait(2)
    acks = [Acknowledgement(task_id=1, refusal=refusal)]
    world.answer(acknowledged=acks, epoch=epoch, answered_at=1000.0)
    return world


def test_an_acknowledged_result_is_kept() -> None:
    world = done_and_acknowledged()
    assert sorted(world.state.kept) == [1]
    assert world.state.tasks == {}
    assert [k.kept.task_id for k in world.saying(c.KeepResult)] == [1]


def test_results_without_credit_or_of_a_0_1_0_server_are_not_kept() -> None:
    for world in (
        done_and_acknowledged(epoch=""),
        done_and_acknowledged(refusal="no"),
        done_and_acknowledged(outcome="failed"),
    ):
        assert world.state.kept == {}
        assert [f.task_id for f in world.saying(c.ForgetTask)] == [1]


def next_answer(world: World, **answer: object) -> list[c.Command]:
    world.do(e.SyncRequested(now=world.now))
    if world.state.sync.in_flight is None:
        world.wait(1)
    return world.answer(**answer)


def test_a_result_that_is_in_a_backup_is_dropped() -> None:
    world = done_and_acknowledged()
    assert of(next_answer(world, epoch="one", backed_up_at=1000.0), c.DropResults) == []
    assert of(next_answer(world, epoch="one", backed_up_at=1000.5), c.DropResults) == [
        c.DropResults(task_ids=[1])
    ]
    assert world.state.kept == {}


def test_in_a_new_epoch_it_is_reported_again_and_only_then() -> None:
    world = done_and_acknowledged()
    assert of(next_answer(world, epoch="one"), c.ReportAgain) == []
    commands = next_answer(world, epoch="two", restored_from=900.0)
    assert of(commands, c.ReportAgain) == [c.ReportAgain(task_ids=[1])]
    assert of(commands, c.ReloadTasks) == [c.ReloadTasks(task_ids=[1])]
    record = world.saying(c.SaveTask)[0].record
    waiting = e.WaitingReport(task_id=1, outcome="success", size_bytes=10)
    world.do(e.TasksReloaded(now=world.now, tasks=[record], reports=[waiting]))
    world.wait(2)
    plan = world.state.sync.in_flight
    assert plan is not None
    assert (plan.report_ids, plan.epoch, record.epoch) == ([1], "two", "one")


def test_what_the_restored_database_has_is_not_reported_again() -> None:
    world = done_and_acknowledged()
    commands = next_answer(world, epoch="two", restored_from=1000.5)
    assert of(commands, c.ReportAgain) == []


def test_the_first_epoch_that_an_agent_sees_is_not_a_restore() -> None:
    world = World(kept=[KeptResult(task_id=9, acknowledged_at=1, kept_wall=2e9, size_bytes=1)])
    assert of(world.answer(epoch="one"), c.ReportAgain) == []
    assert world.state.epoch == "one"


def test_old_results_and_those_beyond_the_bounds_are_dropped_oldest_first() -> None:
    wall = 1_700_000_000.0
    old = KeptResult(task_id=1, acknowledged_at=5, kept_wall=wall - 8 * 86400, size_bytes=1)
    many = [
        KeptResult(task_id=2 + n, acknowledged_at=5, kept_wall=wall + n * 1e-3, size_bytes=1)
        for n in range(kept_results.KEPT_RESULTS_MAX + 3)
    ]
    world = World(kept=[old, *many], epoch="one")
    [dropped] = of(world.answer(epoch="one"), c.DropResults)
    assert dropped.task_ids == [1, 2, 3, 4]
    large = [
        KeptResult(task_id=n, acknowledged_at=5, kept_wall=wall + n,
                   size_bytes=kept_results.KEPT_BYTES_MAX // 2)
        for n in range(3)
    ]  # fmt: skip
    world = World(kept=large, epoch="one")
    assert of(world.answer(epoch="one"), c.DropResults) == [c.DropResults(task_ids=[0])]


def test_a_host_that_the_restored_server_does_not_know_joins_again() -> None:
    world = World()
    commands = world.do(
        e.SyncFailed(now=world.now, problem="unknown", again=False, fatal=True, restored=True,
                     jitter=0.5)
    )  # fmt: skip
    assert [exit.fault for exit in of(commands, c.Exit)] == ["restored"]
