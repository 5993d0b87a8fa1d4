"""Which tasks start beside which, and how much work to ask for: shares, exact amounts, cohorts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.allocate import allocate, task_seconds, wanted
from axiom_client.decide.capacity import Room, room
from axiom_client.decide.idle import slot_reasons
from axiom_client.decide.model import Bundle, Limits, Load, TaskRecord, TaskState
from axiom_client.decide.place import allocation_now
from axiom_protocol.manifest import Cohort, Resources
from axiom_protocol.messages import Capacity
from tests.support.world import SHA, WALL, World, facts, grant, manifest, of

GIB = 1 << 30
SMALL = {"memory_bytes": 100_000_000, "disk_bytes": 1_000_000}


def on_gpus(tasks: int, gpus: int = 1, limits: Limits | None = None, **needs: Any) -> World:
    """A host whose tasks need a GPU, of 8 GiB, and so much of it."""
    world = World(facts(cores=1, gpus=gpus), limits=limits or Limits())
    world.answer(*[grant(i + 1, device="gpu") for i in range(tasks)])
    world.fetched(resources=Resources(**{**SMALL, "gpus": 1, **needs}))
    world.hear_nothing()
    return world


def running(world: World) -> list[list[int]]:
    """The GPUs of each task that runs."""
    return [task.gpus for task in world.state.tasks.values() if task.phase == "running"]


# --- GPUs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_gpu_takes_so_many_tasks_and_no_more(most: int) -> None:
    world = on_gpus(5, limits=Limits(gpu_tasks={"": most}), gpu_share=0.1)
    assert running(world) == [[0]] * most


@pytest.mark.parametrize(("share", "tasks"), [(1.0, 1), (0.5, 2), (0.4, 2), (0.1, 10)])
def test_the_shares_of_tasks_on_a_gpu_come_to_one_at_most(share: float, tasks: int) -> None:
    world = on_gpus(11, limits=Limits(gpu_tasks={"": 99}), gpu_share=share)
    assert len(running(world)) == tasks


@pytest.mark.parametrize(
    ("each", "tasks"), [(8 * GIB, 1), (4 * GIB, 2), (4 * GIB + 1, 1), (3 * GIB, 2), (2 * GIB, 4)]
)
def test_the_tasks_on_a_gpu_fit_into_its_memory(each: int, tasks: int) -> None:
    world = on_gpus(9, limits=Limits(gpu_tasks={"": 99}), gpu_share=0.1, gpu_memory_bytes=each)
    assert len(running(world)) == tasks


def test_the_emptiest_gpu_is_taken_first() -> None:
    assert running(on_gpus(4, gpus=2, gpu_share=0.4)) == [[0], [1], [0], [1]]


def test_what_runs_on_a_gpu_counts_for_the_next_task() -> None:
    world = on_gpus(1, limits=Limits(gpu_tasks={"": 2}), gpu_share=0.4)
    world.do(e.SyncRequested(now=world.now))
    world.answer(*[grant(i, device="gpu") for i in (2, 3)])
    assert running(world) == [[0], [0]]


def test_the_needs_of_the_next_gpu_task_in_words() -> None:
    world = World(facts(cores=1, gpus=3))
    world.answer(grant(1, device="gpu"), grant(2, device="gpu"))
    needs = Resources(**SMALL, gpus=2, gpu_share=1.0, gpu_memory_bytes=2_000_000_000)
    world.fetched(resources=needs)
    assert allocation_now(world.state).passed_over == {
        "gpu": "the next task needs 2 GPUs with 2,000 MB of memory"
    }


# --- exact amounts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needs", "limits", "load", "starts"),
    [
        ({"memory_bytes": 16_000_000_000}, {"memory_share": 0.5}, {}, 2),  # of 64 GB
        ({"memory_bytes": 16_000_000_001}, {"memory_share": 0.5}, {}, 1),
        ({"disk_bytes": 5_000_000_000}, {}, {}, 2),  # of 10 GB
        ({"disk_bytes": 5_000_000_001}, {}, {}, 1),
        ({}, {"memory_keep_free": 1e9}, {"memory_available_bytes": 1_200_000_000}, 2),
        ({}, {"memory_keep_free": 1e9}, {"memory_available_bytes": 1_199_999_999}, 1),
    ],
)
def test_tasks_start_while_there_is_just_enough(
    needs: dict[str, Any], limits: dict[str, Any], load: dict[str, Any], starts: int
) -> None:
    """All in one step: each takes of what is left for the next."""
    world = World(facts(cores=4), limits=Limits(**limits))
    world.do(e.LoadMeasured(now=world.now, load=Load(**load)))
    world.answer(grant(1), grant(2), grant(3))
    commands = world.fetched(resources=Resources(**{**SMALL, **needs}))
    assert len(of(commands, c.StartTask)) == starts


def test_a_task_that_starts_when_the_memory_is_measured_has_not_taken_it() -> None:
    world = World(facts(cores=4), limits=Limits(memory_keep_free=1e9))
    free = Load(memory_available_bytes=1_150_000_000)
    world.do(e.LoadMeasured(now=world.now, load=free))
    world.answer(grant(1))
    assert of(world.fetched(), c.StartTask)
    assert world.state.measured_at == world.now
    world.do(e.SyncRequested(now=world.now))
    assert not of(world.wait(1) + world.answer(grant(2)), c.StartTask)


def test_memory_that_started_tasks_have_yet_to_take_is_not_promised_again() -> None:
    """Until the next measurement, which has it."""
    world = World(facts(cores=4), limits=Limits(memory_keep_free=1e9))
    free = Load(memory_available_bytes=1_150_000_000)
    world.do(e.LoadMeasured(now=world.now, load=free))
    world.now += 1
    world.answer(grant(1))
    assert of(world.fetched(), c.StartTask)
    world.do(e.SyncRequested(now=world.now))
    world.now += 1
    assert not of(world.answer(grant(2)), c.StartTask)
    world.wait(10)  # measured again
    assert of(world.do(e.LoadMeasured(now=world.now, load=free)), c.StartTask)


# --- cohorts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "cohorts"), [(1, [1, 1]), (2, [2, 2]), (3, [2, 2])])
def test_a_core_takes_its_part_of_the_waiting_seeds(most: int, cohorts: list[int]) -> None:
    world = World(facts(cores=2))
    world.answer(*[grant(i + 1) for i in range(4)])
    world.fetched(cohort=Cohort(most=64, most_on_core=most))
    assert [len(start.spec.task_ids) for start in world.saying(c.StartTask)] == cohorts


def test_a_cohort_of_tasks_on_two_cores_fills_two() -> None:
    world = World(facts(cores=4))
    world.answer(*[grant(i + 1) for i in range(4)])
    needs = Resources(**SMALL, cpu_cores=2)
    world.fetched(cohort=Cohort(most=64, most_on_core=64), resources=needs)
    assert [start.spec.task_ids for start in world.saying(c.StartTask)] == [[1, 2], [3, 4]]


def test_tasks_for_gpus_do_not_wait_for_a_core() -> None:
    """Two seeds for two cores: each has its own, though a third waits for a GPU."""
    world = World(facts(cores=2, gpus=1))
    world.answer(grant(1), grant(2), *[grant(i, device="gpu") for i in (3, 4, 5, 6)])
    world.fetched(cohort=Cohort(most=1, most_on_core=64))
    on_cores = [start.spec.task_ids for start in world.saying(c.StartTask) if not start.gpus]
    assert on_cores == [[1], [2]]


@pytest.mark.parametrize(("disk", "cohorts"), [(4, [[1, 2], [3, 4]]), (3, [[1, 2], [3]])])
def test_a_cohort_takes_what_all_its_seeds_need(disk: int, cohorts: list[list[int]]) -> None:
    world = World(facts(cores=2), limits=Limits(disk_bytes=disk * SMALL["disk_bytes"]))
    world.answer(*[grant(i + 1) for i in range(4)])
    world.fetched(cohort=Cohort(most=64, most_on_core=64))
    assert [start.spec.task_ids for start in world.saying(c.StartTask)] == cohorts


def test_lost_tasks_whose_time_has_come_share_a_process_whatever_their_tries() -> None:
    tasks = in_hand(2, retry_at=5.0)
    tried = [
        msgspec.structs.replace(task, record=msgspec.structs.replace(task.record, attempts=i))
        for i, task in tasks.items()
    ]
    shared = known(cohort=Cohort(most=8, most_on_core=8))
    found = allocate({task.task_id: task for task in tried}, shared, here(), now=5.0)
    assert (found.start, found.members) == ([(1, [])], {1: [2]})


# --- how much to ask for --------------------------------------------------------------------------


def in_hand(
    count: int, device: str = "cpu", phase: str = "queued", **task: Any
) -> dict[int, TaskState]:
    return {
        i: TaskState(
            record=TaskRecord(grant=grant(i, device=device), order=i, lease_until_wall=WALL),
            phase=phase,  # type: ignore[arg-type]
            **task,
        )
        for i in range(1, count + 1)
    }


def known(**declared: Any) -> dict[str, Bundle]:
    made = manifest(**declared)
    bundle = Bundle(experiment="walk", version="1.0.0", sha256=SHA, path="/x", manifest=made)
    return {SHA: bundle}


def here(cores: int = 1, gpus: int = 0) -> Room:
    return room(facts(cores=cores, gpus=gpus), Load(), Limits())


def asked(tasks: dict[int, TaskState], bundles: dict[str, Bundle], space: Room) -> Capacity:
    return wanted(tasks, bundles, {}, space, 300.0)


def test_how_long_a_task_takes() -> None:
    [task] = in_hand(1).values()
    assert task_seconds(task, {}, {"walk@1.0.0": 7.0}) == 7.0
    assert task_seconds(task, known(expected_seconds=40.0), {}) == 40.0
    assert task_seconds(task, {}, {}) == 60.0  # its budget
    short = TaskState(
        record=TaskRecord(grant=grant(1, budget_seconds=0.5), order=0, lease_until_wall=WALL)
    )
    assert task_seconds(short, {}, {}) == 1.0


ON_GPU = Resources(**SMALL, gpus=1, gpu_share=1.0)
SHARED_GPU = {"resources": ON_GPU, "cohort": Cohort(most=8)}


def test_a_cohort_that_runs_fills_one_gpu() -> None:
    """However many more seeds it could have had."""
    first = in_hand(2, "gpu", "running", cohort=1, cohort_size=2, gpus=[0])
    second = in_hand(4, "gpu", "running", cohort=3, cohort_size=2, gpus=[1])
    capacity = asked(first, known(**SHARED_GPU), here(gpus=2))
    assert (capacity.gpu_slots, capacity.gpu_slots_free) == (2, 1)
    assert asked({**second, **first}, known(**SHARED_GPU), here(gpus=2)).gpu_slots_free == 0
    alone = asked(in_hand(2, "gpu", "running"), known(resources=ON_GPU), here(gpus=2))
    assert alone.gpu_slots_free == 0


def test_seeds_that_will_share_a_gpu_count_as_one_process() -> None:
    found = asked(in_hand(8, "gpu"), known(**SHARED_GPU), here(gpus=2))
    assert found.gpu_slots_free == 1
    long = known(**SHARED_GPU, expected_seconds=3600.0)
    running = {i: t for i, t in in_hand(10, "gpu", "running").items() if i > 8}
    found = asked({**in_hand(8, "gpu"), **running}, long, here(gpus=2))
    assert found.gpu_slots_free == 0
    assert found.buffer_seconds == 3600.0, "one GPU has a cohort behind its task, the other none"


def test_processes_that_are_paused_are_not_work_that_waits() -> None:
    """Seven, from when seven GPUs could be used: one can be now, and one cohort waits for it."""
    paused = {i: t for i, t in in_hand(15, "gpu", "paused").items() if i > 8}
    no_core = room(facts(gpus=1), Load(), Limits(cpu_share=0.0))
    found = asked({**in_hand(8, "gpu"), **paused}, known(**SHARED_GPU), no_core)
    assert found.buffer_seconds == 300.0
    more = {i: t for i, t in in_hand(60, "gpu").items() if i > 15}
    found = asked({**in_hand(8, "gpu"), **paused, **more}, known(**SHARED_GPU), no_core)
    assert found.buffer_seconds == 0.0


def test_seeds_that_share_a_core_are_counted_one_by_one_until_they_do() -> None:
    shared = known(cohort=Cohort(most=8, most_on_core=8))
    assert asked(in_hand(1), shared, here(cores=2)).cpu_slots_free == 1
    assert asked(in_hand(2), shared, here(cores=2)).cpu_slots_free == 0


HOURS = {"expected_seconds": 3600.0}


@pytest.mark.parametrize(
    ("cores", "busy", "waiting", "asks"),
    [
        (2, 2, 0, 300.0),  # nothing is known of how long a task takes
        (2, 2, 1, 3600.0),  # half an hour a core, and an hour for the one that has none
        (2, 2, 2, 0.0),
        (2, 0, 1, 5400.0),  # it will run at once, and none will wait behind it
        (4, 4, 2, 3600.0),
    ],
)
def test_the_buffer_is_at_least_as_long_as_a_task_for_each_slot_without_one(
    cores: int, busy: int, waiting: int, asks: float
) -> None:
    tasks = in_hand(busy + waiting)
    tasks |= in_hand(busy, phase="running")
    assert asked(tasks, known(**HOURS), here(cores=cores)).buffer_seconds == asks


@pytest.mark.parametrize(("buffer", "asks"), [(0.0, 0.0), (1.0, 3600.0)])
def test_a_host_without_a_buffer_keeps_no_task_waiting(buffer: float, asks: float) -> None:
    tasks = in_hand(3) | in_hand(2, phase="running")
    found = wanted(tasks, known(**HOURS), {}, here(cores=2), buffer)
    assert found.buffer_seconds == asks


def test_half_of_a_gpu_is_half_of_a_slot() -> None:
    half = known(resources=Resources(**SMALL, gpus=1, gpu_share=0.5), **HOURS)
    assert asked(in_hand(2, "gpu", "running"), half, here(gpus=2)).gpu_slots_free == 1
    tasks = in_hand(3, "gpu") | in_hand(2, "gpu", "running")
    assert asked(tasks, half, here(gpus=1)).buffer_seconds == 5400.0


def test_a_gpu_has_a_buffer_when_it_has_had_work() -> None:
    plenty = in_hand(6) | in_hand(1, phase="running")
    assert asked(plenty, known(), here(gpus=1)).buffer_seconds == 0.0, "the server had none for it"
    busy = {7: in_hand(7, "gpu", "running")[7]}
    assert asked(plenty | busy, known(), here(gpus=1)).buffer_seconds == 300.0


def test_no_more_waits_than_a_few_tasks_for_each_core() -> None:
    second = known(expected_seconds=1.0)
    assert asked(in_hand(11), second, here(cores=2)).buffer_seconds == 300.0
    assert asked(in_hand(12), second, here(cores=2)).buffer_seconds == 0.0


@pytest.mark.parametrize(("seconds", "asks"), [(150.0, 0.0), (149.0, 300.0)])
def test_work_is_asked_for_when_less_than_half_of_the_buffer_is_left(
    seconds: float, asks: float
) -> None:
    busy = in_hand(1, phase="running")
    waiting = {2: in_hand(2)[2]}
    found = asked({**busy, **waiting}, known(expected_seconds=seconds), here())
    assert found.buffer_seconds == asks


def test_the_buffer_is_done_well_before_the_shortest_lease_ends() -> None:
    task = in_hand(1, phase="running")
    lease = task[1].record.grant.lease_seconds
    assert lease == 3600.0
    assert wanted(task, known(), {}, here(), 1e6).buffer_seconds == 1800.0


def test_memory_and_disk_of_running_tasks_are_not_offered() -> None:
    space = here(cores=4)
    capacity = asked(in_hand(2, phase="running"), known(), space)
    assert capacity.memory_free_bytes == space.memory_bytes - 200_000_000
    assert capacity.disk_free_bytes == space.disk_bytes - 2_000_000
    large = known(resources=Resources(memory_bytes=10**12, disk_bytes=10**12))
    none = asked(in_hand(1, phase="running"), large, space)
    assert (none.memory_free_bytes, none.disk_free_bytes) == (0, 0)


def test_ended_tasks_and_those_for_gpus_say_nothing_of_memory_for_cores() -> None:
    """Whether cores have memory is judged by the tasks that wait for cores."""
    large = known(resources=Resources(memory_bytes=20_000_000_000, disk_bytes=1))
    space = here(cores=4)  # 48 GB for tasks
    assert asked(in_hand(1), large, space).cpu_slots == 2
    small = {**large, "b" * 64: known()[SHA]}
    other = TaskState(
        record=TaskRecord(grant=grant(9, sha256="b" * 64), order=9, lease_until_wall=WALL)
    )
    assert asked({**in_hand(3), 9: other}, small, space).cpu_slots == 3
    assert asked({**in_hand(3, phase="ended"), 9: other}, small, space).cpu_slots == 4
    assert asked({**in_hand(3, device="gpu"), 9: other}, small, space).cpu_slots == 4


# --- who holds which slot -------------------------------------------------------------------------


def holders(world: World) -> dict[str, list[int]]:
    return {slot.name: held for slot, held, _ in slot_reasons(world.state)}


def test_tasks_hold_the_slots_that_they_need_in_order() -> None:
    world = World(facts(cores=6, gpus=2))
    other = "b" * 64
    on_gpu = [grant(i, device="gpu") for i in (3, 4)]
    world.answer(grant(1), grant(2, sha256=other), *on_gpu, grant(5), grant(6, sha256=other))
    world.fetched(resources=Resources(**SMALL, cpu_cores=2))
    world.fetched(other)
    world.ended(1)
    assert holders(world) == {
        "core 0": [2], "core 1": [5], "core 2": [5], "core 3": [6], "core 4": [], "core 5": [],
        "GPU 0": [3], "GPU 1": [4],
    }  # fmt: skip


def test_the_members_of_a_cohort_hold_its_core_together() -> None:
    world = World(facts(cores=2))
    world.answer(*[grant(i + 1) for i in range(4)])
    world.fetched(cohort=Cohort(most=64, most_on_core=64))
    assert holders(world) == {"core 0": [1, 2], "core 1": [3, 4]}
    world.do(e.PauseRequested(now=world.now))
    assert holders(world) == {"core 0": [], "core 1": []}
