"""What the account's pages show of a host, and the words for idle slots."""

from __future__ import annotations

from axiom_client.decide import events as e
from axiom_client.decide.idle import (
    REASON_CHARACTERS_MAX,
    REASONS_MAX,
    host_status,
    slot_reasons,
    state_and_reason,
)
from axiom_client.decide.model import Limits, Pause
from axiom_protocol.manifest import Resources
from axiom_protocol.messages import AccountSettings
from tests.support.world import World, facts, grant


def reasons(world: World) -> dict[str, str]:
    """The reason of each idle slot."""
    return {slot.name: reason for slot, held, reason in slot_reasons(world.state) if not held}


def test_a_status_has_the_most_frequent_reasons_first() -> None:
    limits = Limits(cpu_cores=1, gpus_excluded=["1"], gpu_tasks={"0": 0})
    world = World(facts(cores=4, gpus=3), limits=limits)
    status = host_status(world.state)
    assert [(idle.slots, idle.reason) for idle in status.idle] == [
        (3, "kept free: cpu.cores is 1"),
        (2, "free: asking the server for work"),
        (1, "kept free: gpu.exclude has 1"),
        (1, "kept free: gpu.tasks is 0"),
    ]
    assert (status.state, status.reason, status.revision) == ("running", "", "")
    assert (status.refuses, status.mode) == (False, "")


def test_a_status_says_which_settings_of_the_account_are_in_force() -> None:
    world = World(account=AccountSettings(revision="7"))
    assert host_status(world.state).revision == "7"


def test_a_status_fits_into_a_request() -> None:
    many = REASONS_MAX + 4
    limits = Limits(gpus_excluded=[f"{i}" for i in range(many)])
    world = World(facts(cores=1, gpus=many), limits=limits, pause=None)
    assert len(host_status(world.state).idle) == REASONS_MAX
    world.do(e.PauseRequested(now=world.now, reason="x" * 999))
    status = host_status(world.state)
    assert len(status.reason) == REASON_CHARACTERS_MAX
    assert {len(idle.reason) for idle in status.idle} == {REASON_CHARACTERS_MAX}


def test_the_state_says_why_without_the_state() -> None:
    assert state_and_reason(World(pause=Pause(reason="paused: drained, moving")).state) == (
        "paused", "drained, moving",
    )  # fmt: skip
    night = World(limits=Limits(schedule=[(0, 1)]))
    state, reason = state_and_reason(night.state)
    assert state == "paused"
    assert reason.startswith("outside the hours of run.schedule until ")


def test_a_drain_says_what_follows_in_local_time() -> None:
    world = World(utc_offset_seconds=3600)
    world.do(e.DrainRequested(now=world.now, reason="moving", then="pause", deadline_seconds=600.0))
    assert state_and_reason(world.state) == (
        "draining", "moving; tasks still running at 23:23 are ended; then the agent pauses",
    )  # fmt: skip


def test_tasks_that_have_ended_say_nothing_of_idle_slots() -> None:
    """The report of a task for a core: the GPU is not idle because of it."""
    world = World(facts(cores=1, gpus=1))
    world.answer(grant(1))
    world.fetched()
    assert reasons(world) == {"GPU 0": "free: the server has no work for this GPU"}
    world.ended(1)
    assert world.phases() == {1: "ended"}
    assert set(reasons(world).values()) == {"free: asking the server for work"}


def test_a_task_that_waits_for_its_next_try_is_named_until_its_time() -> None:
    world = World(facts(cores=1)).working(1)
    world.ended(1, "lost")
    text = "free: the process of task 1 was lost; it runs again in a moment"
    assert reasons(world) == {"core 0": text}
    world.fetched()
    world.do(e.PauseRequested(now=world.now, for_seconds=None))
    world.state.now = world.state.tasks[1].retry_at
    world.state.pause = None
    assert reasons(world) != {"core 0": text}


def test_a_bundle_that_is_fetched_is_named_and_its_problem_too() -> None:
    world = World(facts(cores=1))
    world.answer(grant(1))
    del world.state.bundles["a" * 64]
    assert reasons(world) == {"core 0": "free: fetching walk@1.0.0"}


def test_a_gpu_of_several_is_named_by_its_number() -> None:
    world = World(facts(cores=1, gpus=2))
    world.answer(grant(1, device="gpu"))
    world.fetched(resources=Resources(memory_bytes=1_000, disk_bytes=1_000, gpus=2, gpu_share=1.0))
    held = {slot.name: tasks for slot, tasks, _ in slot_reasons(world.state)}
    assert held == {"core 0": [], "GPU 0": [1], "GPU 1": [1]}


def test_the_agent_s_own_reason_is_that_of_every_idle_slot() -> None:
    world = World(facts(cores=1, gpus=1))
    found = slot_reasons(world.state, "the disk is full")
    assert [reason for _, _, reason in found] == ["free: the disk is full"] * 2


def test_memory_is_no_reason_while_nothing_runs() -> None:
    """Known tasks need 20 of the 48 GB each; now the server has none."""
    world = World(facts(cores=4))
    world.answer(grant(1))
    world.fetched(resources=Resources(memory_bytes=20_000_000_000, disk_bytes=1_000))
    assert "memory.share" in reasons(world)["core 3"]
    world.ended(1)
    world.hear_nothing()
    assert set(reasons(world).values()) == {"free: the server has no work for this host"}
