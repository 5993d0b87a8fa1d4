"""Usable slots from host facts and limits, reasons for unusable ones, and how much is requested."""

from __future__ import annotations

import pytest

from axiom_client.decide.allocate import wanted
from axiom_client.decide.capacity import allowed_cores, room
from axiom_client.decide.model import AgentState, Limits, Load, Pause, TaskRecord, TaskState
from axiom_client.decide.place import room_now
from axiom_protocol.manifest import Resources
from axiom_protocol.messages import Capacity
from tests.support.world import WALL, World, facts, grant


@pytest.mark.parametrize(
    ("cores", "limits", "allowed"),
    [
        (240, Limits(), 240),
        (240, Limits(cpu_share=0.5), 120),
        (3, Limits(cpu_share=0.5), 1),
        (1, Limits(cpu_share=0.25), 1),
        (16, Limits(cpu_share=0.0), 0),
        (16, Limits(cpu_cores=4), 4),
        (2, Limits(cpu_cores=4), 2),
        (10, Limits(cpu_share=0.7), 7),
    ],
)
def test_allowed_cores(cores: int, limits: Limits, allowed: int) -> None:
    assert allowed_cores(cores, limits) == allowed


@pytest.mark.parametrize(
    ("load", "limits", "pause", "word"),
    [
        (Load(in_use=True), Limits(while_in_use=False), None, "this computer is in use"),
        (Load(on_battery=True), Limits(), None, "battery"),
        (Load(other_cores=3.0), Limits(other_load_share=0.5), None, "75%"),
        (Load(), Limits(), Pause(reason="paused by you"), "paused by you"),
    ],
)
def test_everything_rests_for_one_reason(
    load: Load, limits: Limits, pause: Pause | None, word: str
) -> None:
    state = AgentState(facts=facts(cores=4, gpus=1), load=load, limits=limits, pause=pause)
    found = room_now(state)
    assert not found.cpu
    assert not found.gpu
    assert all(word in slot.reason for slot in found.slots)


@pytest.mark.parametrize(
    ("load", "limits"),
    [
        (Load(in_use=True), Limits()),
        (Load(on_battery=True), Limits(on_battery=True)),
        (Load(other_cores=3.0), Limits()),
        (Load(other_cores=1.0), Limits(other_load_share=0.5)),
    ],
)
def test_nothing_rests_where_the_volunteer_allows_it(load: Load, limits: Limits) -> None:
    assert len(room_now(AgentState(facts=facts(cores=4), load=load, limits=limits)).cpu) == 4


def test_each_core_kept_free_names_the_key_that_keeps_it() -> None:
    slots = room(facts(cores=4, gpus=1), Load(), Limits(cpu_share=0.5, gpus=False)).slots
    assert [slot.reason for slot in slots] == [
        "", "", "kept free: cpu.share is 50%", "kept free: cpu.share is 50%",
        "kept free: gpu.enabled is false",
    ]  # fmt: skip


def test_limits_that_the_account_set_name_it() -> None:
    origins = {"cpu.cores": "set by Ada", "gpu.enabled": "set by Ada"}
    limits = Limits(cpu_cores=1, gpus_max=1, gpus_excluded=["0"], origins=origins)
    slots = room(facts(cores=2, gpus=3), Load(), limits).slots
    assert [slot.reason for slot in slots] == [
        "", "kept free: cpu.cores is 1, set by Ada",
        "kept free: gpu.exclude has 0", "", "kept free: 1 GPU at most, set by Ada",
    ]  # fmt: skip
    assert [slot.uuid for slot in slots] == ["", "", "GPU-0", "GPU-1", "GPU-2"]


@pytest.mark.parametrize(
    ("free_bytes", "disk_bytes"),
    [(None, 10**9), (400_000_000, 300_000_000), (100_000_001, 1), (100_000_000, 0), (5, 0)],
)
def test_tasks_get_what_is_free_of_the_disk_beyond_what_is_kept(
    free_bytes: int | None, disk_bytes: int
) -> None:
    """What was measured last counts, not what the first probe found."""
    host = facts(disk_free_bytes=2 * 10**9)
    load = Load(disk_free_bytes=free_bytes, disk_total_bytes=10**10)
    found = room(host, load, Limits(disk_bytes=10**9, disk_keep_free=0.01))
    assert found.disk_bytes == disk_bytes


@pytest.mark.parametrize(
    ("available", "now"), [(None, None), (10**9, 0), (10**9 + 1, 1), (3 * 10**9, 2 * 10**9)]
)
def test_new_tasks_get_the_free_memory_beyond_what_is_kept(
    available: int | None, now: int | None
) -> None:
    load = Load(memory_available_bytes=available)
    found = room(facts(), load, Limits(memory_keep_free=1e9), blocked="not now")
    assert (found.memory_now, found.blocked) == (now, "not now")


def wanted_capacity(
    cores: int, held: int, gpus: int = 0, buffer_seconds: float = 300.0
) -> Capacity:
    """What a host asks for that holds ``held`` tasks of a minute each."""
    tasks = {
        i: TaskState(
            record=TaskRecord(grant=grant(i), order=i, lease_until_wall=WALL),
            phase="running" if i < cores else "queued",
        )
        for i in range(held)
    }
    found = room(facts(cores=cores, gpus=gpus), Load(), Limits())
    return wanted(tasks, {}, {}, found, buffer_seconds)


@pytest.mark.parametrize(
    ("cores", "gpus", "held", "free", "gpus_free", "buffer"),
    [
        (240, 0, 0, 240, 0, 300.0),
        (192, 2, 0, 192, 2, 300.0),
        (128, 1, 0, 128, 1, 300.0),
        (16, 0, 96, 0, 0, 0.0),  # holds plenty of tasks: requests none
        (2, 0, 2, 0, 0, 300.0),  # busy, with nothing waiting behind
        (2, 0, 8, 0, 0, 0.0),  # three minutes wait for each core: above half the buffer
        (2, 0, 6, 0, 0, 300.0),  # two minutes: below
        (2, 0, 12, 0, 0, 0.0),
    ],
)
def test_batches_fit_the_slots_and_the_buffer(
    cores: int, gpus: int, held: int, free: int, gpus_free: int, buffer: float
) -> None:
    capacity = wanted_capacity(cores, held, gpus)
    assert (capacity.cpu_slots_free, capacity.gpu_slots_free) == (free, gpus_free)
    assert capacity.buffer_seconds == buffer


def test_long_tasks_still_get_one_waiting_behind_each_core() -> None:
    tasks = {
        i: TaskState(
            record=TaskRecord(
                grant=grant(i, budget_seconds=3600.0), order=i, lease_until_wall=WALL
            ),
            phase="running" if i < 2 else "queued",
        )
        for i in range(3)
    }
    capacity = wanted(tasks, {}, {}, room(facts(), Load(), Limits()), 300.0)
    assert capacity.buffer_seconds == pytest.approx(3600.0)


def test_own_record_of_durations_counts_more_than_the_declaration() -> None:
    tasks = {
        i: TaskState(
            record=TaskRecord(grant=grant(i), order=i, lease_until_wall=WALL),
            phase="running" if i < 2 else "queued",
        )
        for i in range(8)
    }
    found = room(facts(), Load(), Limits())
    assert wanted(tasks, {}, {}, found, 300.0).buffer_seconds == 0
    assert wanted(tasks, {}, {"walk@1.0.0": 6.0}, found, 300.0).buffer_seconds == 300.0


@pytest.mark.parametrize(
    ("memory", "slots"),
    [(500_000_000, 96), (1_000_000_000, 48), (100_000_000, 240), (40_000_000_000, 1)],
)
def test_cores_without_memory_are_not_asked_for(memory: int, slots: int) -> None:
    """240 cores and 64 GB, of which tasks may have 48."""
    world = World(facts(cores=240), limits=Limits(buffer_seconds=0.0))
    first = world.state.sync.in_flight
    assert first is not None
    assert first.capacity.cpu_slots_free == 240  # what tasks need is not known yet
    world.answer(grant(1))
    world.fetched(resources=Resources(memory_bytes=memory, disk_bytes=1_000_000))
    space = room_now(world.state)
    state = world.state
    capacity = wanted(state.tasks, state.bundles, state.durations, space, 0.0)
    assert (capacity.cpu_slots, capacity.cpu_slots_free) == (slots, slots - 1)
    nothing_in_hand = wanted({}, state.bundles, state.durations, space, 0.0)
    assert nothing_in_hand.cpu_slots == slots
