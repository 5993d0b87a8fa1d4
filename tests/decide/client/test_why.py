"""Reasons: every idle slot and every paused task has exactly one, in words for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from axiom_client.config.quantities import read_schedule
from axiom_client.control.snapshot import Membership, Snapshot, snapshot
from axiom_client.decide import events as e
from axiom_client.decide.model import Limits, Load
from axiom_protocol.manifest import Resources
from tests.support.world import WALL, World, facts, grant

WHO = Membership(project="Axiom", url="https://x.example", host_id=1, user="Ada")
SMALL = {"memory_bytes": 100_000_000, "disk_bytes": 1_000_000}


def seen(world: World) -> Snapshot:
    return snapshot(world.state, WHO, world.now)


def reasons(world: World) -> dict[str, str]:
    """The reason of each idle slot."""
    return {slot.name: slot.reason for slot in seen(world).slots if slot.task_id is None}


def needing(tasks: int = 1, cores: int = 4, gpus: int = 0, **resources: Any) -> World:
    """A host with tasks that need so much, and a server that has no more."""
    world = World()
    host = facts(cores=cores, gpus=gpus)
    world.do(e.FactsProbed(now=world.now, facts=host, gpus_known=True))
    resources["gpus"] = resources.pop("gpus_each", 0)
    device = "gpu" if resources["gpus"] else "cpu"
    world.answer(*[grant(i + 1, device=device) for i in range(tasks)])
    world.fetched(resources=Resources(**{**SMALL, **resources}))
    world.hear_nothing()
    return world


def asking() -> World:
    return World(facts(cores=1))


def dry(**answer: Any) -> World:
    world = World(facts(cores=1, environments=answer.pop("environments", ["numpy", "torch"])))
    world.answer(**answer)
    return world


def fetching(problem: str = "") -> World:
    world = World(facts(cores=1))
    world.answer(grant(1))
    if problem:
        sha256 = world.state.tasks[1].record.grant.sha256
        world.do(e.BundleFailed(now=world.now, sha256=sha256, problem=problem, jitter=0.5))
    return world


def away() -> World:
    world = World(facts(cores=1))
    world.do(e.SyncFailed(now=world.now, problem="nothing answers", again=True, jitter=0.5))
    return world


def draining() -> World:
    world = World(facts(cores=1))
    world.answer()
    world.do(e.DrainRequested(now=world.now, reason="moving house"))
    return world


def lost() -> World:
    world = needing(cores=1)
    world.ended(1, "lost")
    return world


def paused() -> World:
    world = asking()
    world.do(e.PauseRequested(now=world.now, for_seconds=None, reason="paused by you"))
    return world


def stopping() -> World:
    world = asking()
    world.do(e.StopRequested(now=world.now, reason="received SIGTERM"))
    return world


def resting(load: Load, **limits: Any) -> Callable[[], World]:
    """A host on which one of the volunteer's conditions forbids work, since 22:13."""

    def make() -> World:
        world = World(facts(cores=1), limits=Limits(**limits))
        world.do(e.LoadMeasured(now=world.now, load=load))
        world.wait(600)
        return world

    return make


SINCE = "since 22:13"  # what the clock shows at WALL
#: situation -> the reason of core 0
CORES: dict[str, tuple[Callable[[], World], str]] = {
    "just asked": (asking, "free: asking the server for work"),
    "nothing for anybody": (
        lambda: dry(no_work_reason="no work is waiting for a host like this"),
        "free: no work is waiting for a host like this"),
    "nothing without torch": (
        lambda: dry(environments=["numpy"]), "free: the server has no work for numpy-only hosts"),
    "nothing, and no reason": (dry, "free: the server has no work for this host"),
    "failing": (
        lambda: dry(no_work_reason="its last task failed; it gets one at a time"),
        "free: its last task failed; it gets one at a time"),
    "fetching": (fetching, "free: fetching walk@1.0.0"),
    "cannot fetch": (
        lambda: fetching("timed out"), "free: fetching walk@1.0.0: timed out"),
    "server away": (away, "free: no contact: nothing answers"),
    "draining": (draining, "free: draining (moving house)"),
    "task lost": (lost, "free: the process of task 1 was lost; it runs again in a moment"),
    "paused": (paused, "paused by you"),
    "stopping": (stopping, "stopping: received SIGTERM"),
    "no cores": (resting(Load(), cpu_share=0.0), "kept free: cpu.share is 0%"),
    "battery": (
        resting(Load(on_battery=True, has_battery=True)), f"paused: on battery {SINCE}"),
    "in use": (
        resting(Load(in_use=True), while_in_use=False),
        f"paused: this computer is in use {SINCE}"),
    "game": (
        resting(Load(exclusive="steam"), exclusive=["steam"]),
        f"paused: steam is running (run.exclusive) {SINCE}"),
    "hot": (
        resting(Load(temperature=91.0), temperature_max=85.0),
        f"paused: processor at 91 °C (limit 85 °C) {SINCE}"),
    "others busy": (
        resting(Load(other_cores=0.9), other_load_share=0.5),
        f"paused: other programs use 90% of the processor (limit 50%) {SINCE}"),
    "disk full": (
        resting(Load(disk_free_bytes=10**9, disk_total_bytes=10**12), disk_keep_free=0.01),
        f"paused: 1,000 MB of disk space free, 10,000 MB to be left free {SINCE}"),
    "at night only": (
        resting(Load(), schedule=read_schedule("23:00-07:00")),
        "paused: outside the hours of run.schedule until 23:00"),
}  # fmt: skip


@pytest.mark.parametrize("situation", CORES)
def test_why_a_core_is_idle(situation: str) -> None:
    make, reason = CORES[situation]
    assert reasons(make())["core 0"] == reason


def test_the_table_s_clock() -> None:
    assert WALL % 86400 == 22 * 3600 + 13 * 60 + 20


#: what the waiting tasks need -> the reasons of idle slots
NEEDS: dict[str, tuple[Callable[[], World], dict[str, str]]] = {
    "more cores than are free": (
        lambda: needing(2, cores=4, cpu_cores=3), {"core 3": "free: the next task needs 3 cores"}),
    "more memory than is left": (
        lambda: needing(2, memory_bytes=40_000_000_000),
        {"core 1": "free: the next task needs 40,000 MB of memory, and 8,000 MB is left "
            "of what all tasks may use (memory.share)"}),
    "more memory than there is, and nothing waits": (
        lambda: needing(1, cores=4, memory_bytes=20_000_000_000),
        {"core 1": "free: the server has no work for this host"} | {
            f"core {i}": "free: the memory that tasks may use (memory.share) is enough for 2 cores"
            for i in (2, 3)}),
    "more disk than is left": (
        lambda: needing(2, disk_bytes=6_000_000_000),
        {"core 1": "free: the next task needs 6,000 MB of disk space, and 4,000 MB is left "
            "of what all tasks may use (disk.total)"}),
    "more GPUs than are free": (
        lambda: needing(2, cores=1, gpus=3, gpus_each=2),
        {"GPU 2": "free: the next task needs 2 GPUs",
         "core 0": "free: the server has no work for this host"}),
    "none of them a GPU": (
        lambda: needing(1, cores=1, gpus=1),
        {"GPU 0": "free: the server has no work for this GPU"}),
}  # fmt: skip


@pytest.mark.parametrize("need", NEEDS)
def test_why_a_slot_is_idle_though_tasks_wait(need: str) -> None:
    make, expected = NEEDS[need]
    assert reasons(make()).items() >= expected.items()


def test_why_a_core_is_idle_while_memory_is_short() -> None:
    world = World(facts(cores=2), limits=Limits(memory_keep_free=0.05))
    free = Load(memory_available_bytes=3_250_000_000)
    world.do(e.LoadMeasured(now=world.now, load=free))
    world.answer(grant(1))
    world.fetched()
    world.hear_nothing()
    assert set(reasons(world).values()) == {
        "free: the next task needs 100 MB of memory, and this computer has too little free now "
        "(memory.keep_free)"
    }


# --- paused tasks ---------------------------------------------------------------------------------


def paused_tasks(world: World) -> dict[int, str]:
    return {t.task_id: t.reason for t in seen(world).tasks if t.state == "paused"}


def test_a_task_paused_for_want_of_cores_names_the_key_for_cores() -> None:
    world = World(facts(cores=2, gpus=1)).working(2)
    world.do(e.ConfigChanged(now=world.now, limits=Limits(gpus=False, cpu_cores=1)))
    assert paused_tasks(world) == {2: "kept free: cpu.cores is 1"}


def test_tasks_paused_with_everything_have_its_reason() -> None:
    world = World(facts(cores=2)).working(2)
    world.do(e.LoadMeasured(now=world.now, load=Load(on_battery=True, has_battery=True)))
    assert set(paused_tasks(world).values()) == {"paused: on battery since 22:13"}
    world.do(e.PauseRequested(now=world.now, for_seconds=7200, reason="paused by you until 00:13"))
    assert set(paused_tasks(world).values()) == {"paused by you until 00:13"}
    assert (seen(world).state, seen(world).reason) == ("paused", "paused by you until 00:13")


def test_a_task_on_a_paused_gpu_has_the_reason_of_its_gpu() -> None:
    world = needing(2, cores=1, gpus=2, gpus_each=1)
    world.do(e.PauseRequested(now=world.now, for_seconds=None, reason="paused by you", gpu=1))
    assert paused_tasks(world) == {2: "paused by you"}


# --- the whole agent ------------------------------------------------------------------------------


def test_a_drain_says_what_it_will_do() -> None:
    world = World(facts(cores=1)).working(1)
    how = {"then": "exit", "deadline_seconds": 3600.0}
    world.do(e.DrainRequested(now=world.now, reason="moving house", **how))  # type: ignore[arg-type]
    assert seen(world).state == "draining"
    assert (
        seen(world).reason
        == "moving house; tasks still running at 23:13 are ended; then the agent ends"
    )


def test_the_reason_says_that_no_agent_runs_or_that_it_is_delayed() -> None:
    world = fetching()
    shot = snapshot(world.state, WHO, world.now, running=False)
    assert (shot.state, shot.slots[0].reason) == ("not running", "free: the agent is not running")
    shot = snapshot(world.state, WHO, world.now, held_up="the disk is full")
    assert (shot.state, shot.slots[0].reason) == ("held up", "free: the disk is full")


def test_no_slot_is_ever_idle_without_a_reason() -> None:
    for make, _ in [*CORES.values(), *NEEDS.values()]:
        for slot in seen(make()).slots:
            assert (slot.task_id is None) == bool(slot.reason), msgspec.to_builtins(slot)
