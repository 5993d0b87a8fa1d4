"""Whether a granted task can ever run here, and what is remembered of its acceptance."""

from __future__ import annotations

from typing import Any

import pytest

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.agent import step
from axiom_client.decide.fetch import TRUST_SECONDS
from axiom_client.decide.model import AgentState, Limits, TaskRecord
from axiom_protocol.manifest import Resources
from axiom_protocol.messages import Grant
from tests.support.world import SHA, WALL, World, facts, grant, manifest, of

GIB = 1 << 30


def refusal(given: Grant, limits: dict[str, Any], gpus_here: int = 1, **needs: Any) -> str:
    """Why a task is given back by a host of 2 cores and 64 GB; empty when it is not."""
    world = World(facts(gpus=gpus_here), limits=Limits(memory_share=0.5, **limits))
    world.answer(given)
    commands = world.fetched(resources=Resources(**needs))
    return "".join(save.report.message for save in of(commands, c.SaveReport))


@pytest.mark.parametrize(
    ("limits", "needs", "why"),
    [
        ({}, {"cpu_cores": 2}, ""),
        ({}, {"cpu_cores": 3}, "it needs 3 cores and this host has 2"),
        ({}, {"memory_bytes": 32_000_000_000}, ""),
        ({}, {"memory_bytes": 32_000_000_001},
         "it needs 32,000,000,001 bytes of memory, more than memory.share allows"),
        ({"disk_bytes": 5_000}, {"disk_bytes": 5_000}, ""),
        ({"disk_bytes": 5_000}, {"disk_bytes": 5_001},
         "it needs 5,001 bytes of disk space, more than disk.total allows"),
    ],
)  # fmt: skip
def test_what_a_host_can_run(limits: dict[str, Any], needs: dict[str, Any], why: str) -> None:
    small = {"memory_bytes": 1_000, "disk_bytes": 1_000, **needs}
    assert refusal(grant(1), limits, **small) == (f"given back: {why}" if why else "")


@pytest.mark.parametrize(
    ("gpus", "needs", "why"),
    [
        (1, {}, ""),
        (0, {}, "it needs 1 GPU and this host has 0"),
        (1, {"gpus": 2}, "it needs 2 GPUs and this host has 1"),
        (2, {"gpus": 2}, ""),
        (1, {"gpu_memory_bytes": 8 * GIB}, ""),
        (1, {"gpu_memory_bytes": 8 * GIB + 1},
         "it needs 8,589,934,593 bytes of GPU memory, more than a GPU here has"),
        (1, {"cpu_cores": 9}, ""),  # on a GPU, cores do not count
    ],
)  # fmt: skip
def test_what_a_host_can_run_on_gpus(gpus: int, needs: dict[str, Any], why: str) -> None:
    found = refusal(grant(1, device="gpu"), {}, gpus, **{"disk_bytes": 1_000, **needs})
    assert found == (f"given back: {why}" if why else "")


def test_a_task_whose_bundle_was_verified_is_remembered_as_accepted() -> None:
    """So that it can run after a restart without a network."""
    world = World(facts(cores=1))
    world.answer(grant(1), grant(2))
    saves = of(world.fetched(), c.SaveTask)
    assert [s.record.accepted for s in saves if s.record.grant.task_id == 2] == [True]
    assert world.state.tasks[2].record.accepted
    records = [task.record for task in world.state.tasks.values()]
    again = World(facts(cores=1), tasks=records)
    again.fetched()
    assert [s.record.attempts for s in again.saying(c.SaveTask)] == [2], "none but its start"


def test_a_host_that_is_not_probed_yet_gives_nothing_back() -> None:
    record = TaskRecord(grant=grant(1), order=0, lease_until_wall=WALL + 1e5, accepted=True)
    started = e.AgentStarted(now=1.0, wall=WALL, instance="0" * 16, limits=Limits(), tasks=[record])
    state, _ = step(AgentState(), started)
    fetched = e.BundleFetched(now=2.0, sha256=SHA, path="/x", manifest=manifest())
    state, commands = step(state, fetched)
    assert not of(commands, c.SaveReport)
    assert [task.phase for task in state.tasks.values()] == ["queued"]


@pytest.mark.parametrize(("age", "fetches"), [(TRUST_SECONDS - 0.5, 0), (TRUST_SECONDS, 1)])
def test_a_bundle_is_trusted_for_an_hour(age: float, fetches: int) -> None:
    world = World(facts(cores=1)).working(1)
    before = len(world.saying(c.FetchBundle))
    world.ended(1)
    world.answer()
    world.now = world.state.bundles[SHA].verified_at or 0.0
    world.wait(age)
    if world.state.sync.in_flight is None:
        world.do(e.SyncRequested(now=world.now))
    world.answer(grant(2))
    assert len(world.saying(c.FetchBundle)) - before == fetches


def test_a_task_for_a_gpu_waits_until_the_gpus_are_known() -> None:
    """After a restart, the first search for GPUs takes a while: the host seems to have none."""
    records = [
        TaskRecord(grant=grant(1, device="gpu"), order=0, lease_until_wall=WALL + 1e5),
        TaskRecord(grant=grant(2, sha256="b" * 64), order=1, lease_until_wall=WALL + 1e5),
    ]
    world = World(facts(gpus=0), gpus_known=False, tasks=records)
    assert [fetch.sha256 for fetch in world.saying(c.FetchBundle)] == ["b" * 64]
    commands = world.do(e.FactsProbed(now=world.now, facts=facts(gpus=1)))
    assert [fetch.sha256 for fetch in of(commands, c.FetchBundle)] == [SHA]
