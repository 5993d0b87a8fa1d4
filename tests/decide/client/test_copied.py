"""The agent's behaviour when the server says that it may be a copy of another agent."""

from __future__ import annotations

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_protocol.messages import IDENTITY_COPIED, IDENTITY_UNCLEAR
from tests.support.world import World, grant, of


def test_a_copy_ends_its_run_and_reports_and_cancels_nothing() -> None:
    world = World()
    world.answer(grant(1), grant(2))
    world.fetched()
    world.wait(600)
    commands = world.answer(identity=IDENTITY_COPIED, acknowledged=[], cancelled=[1])
    assert [exit.fault for exit in of(commands, c.Exit)] == ["copied"]
    assert of(commands, c.SaveReport) == []
    assert of(commands, c.StopTask) == []


def test_while_identity_is_unclear_tasks_continue_and_syncs_are_not_hurried() -> None:
    world = World()
    world.answer(grant(1))
    world.fetched()
    world.wait(1)
    world.answer(identity=IDENTITY_UNCLEAR, next_sync_seconds=15.0)
    sent = len(world.saying(c.Sync))
    world.wait(14)
    assert len(world.saying(c.Sync)) == sent
    world.wait(2)
    assert len(world.saying(c.Sync)) == sent + 1
    assert world.phases() == {1: "running"}


def test_a_run_until_idle_does_not_end_while_it_is_unclear() -> None:
    world = World(until_idle=True)
    world.answer(identity=IDENTITY_UNCLEAR, next_sync_seconds=15.0)
    assert world.saying(c.Exit) == []
    world.wait(16)
    world.answer()
    world.wait(1)
    assert [exit.reason for exit in world.saying(c.Exit)] == ["the server has no more work"]


def test_its_last_request_says_that_it_ends() -> None:
    world = World()
    world.answer(grant(1), grant(2), grant(3))  # the third waits, and is given back
    world.fetched()
    world.hear_nothing()
    world.do(e.StopRequested(now=world.now, reason="stopped"))
    world.ended(1, "cancelled")
    world.ended(2, "cancelled")
    world.wait(2)
    assert world.saying(c.Sync)[-1].plan.ending
    assert not world.saying(c.Sync)[0].plan.ending
