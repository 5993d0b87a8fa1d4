"""Free slots of a host, shares of pools, and lengths of leases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axiom_protocol.messages import Capacity
from axiom_server.decide import lease
from axiom_server.decide.lease import HostView, LeasePolicy, PoolView, Room

GIB = 1 << 30
HOST = HostView(
    cpu_cores=16, gpus=2, memory_bytes=64 * GIB, environments=frozenset({"numpy", "torch"}),
    leased={"cpu": 0, "gpu": 0},
)  # fmt: skip
POOL = PoolView(
    version_id=1, device="cpu", environment="numpy", cpu_cores=1, memory_bytes=GIB,
    expected_seconds=60.0,
)  # fmt: skip
FREE = Capacity(cpu_slots=16, cpu_slots_free=16, gpu_slots=2, gpu_slots_free=2)


@given(
    st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 64), st.floats(0, 1e5),
    st.floats(0.1, 1e4),
)  # fmt: skip
def test_a_host_never_holds_more_than_slots_and_buffer(
    slots: int, free: int, held: int, buffer: float, typical: float
) -> None:
    capacity = Capacity(cpu_slots=slots, cpu_slots_free=free, buffer_seconds=buffer)
    host = replace(HOST, leased={"cpu": held, "gpu": 0})
    room = lease.room(LeasePolicy(), host, capacity, "", typical)
    most = min(slots, 16)
    ahead = 0 if buffer == 0 else -(-most * min(buffer, 86400.0) // max(typical, 1.0))
    assert held + room.cpu <= max(held, most + ahead + 1)
    assert room.gpu == 0


def test_slots_beyond_the_hosts_own_cores_are_not_believed() -> None:
    capacity = Capacity(cpu_slots=10_000, cpu_slots_free=10_000)
    assert lease.room(LeasePolicy(), HOST, capacity, "", 60).cpu == 16


@pytest.mark.parametrize(
    ("host", "draining", "cpu", "reason"),
    [
        (HOST, "shutting down", 0, ""),
        (replace(HOST, quarantined="wrong results"), "", 0, "quarantined: wrong results"),
        (replace(HOST, failing=1), "", 16, ""),  # one may fail anywhere
        (replace(HOST, failing=2, leased={"cpu": 1, "gpu": 0}), "", 0, "one at a time"),
    ],
)
def test_limits_on_hosts_that_get_less_work(
    host: HostView, draining: str, cpu: int, reason: str
) -> None:
    room = lease.room(LeasePolicy(), host, FREE, draining, 60)
    assert (room.cpu, room.gpu) == (cpu, 2 if cpu else 0)
    assert reason in room.reason


@pytest.mark.parametrize("cores", [1, 4])
def test_a_host_that_fails_repeatedly_gets_one_task_at_a_time(cores: int) -> None:
    """Also if all work needs several cores; otherwise the host could never succeed again."""
    room = lease.room(LeasePolicy(), replace(HOST, failing=2, gpus=0), FREE, "", 60)
    assert "one at a time" in room.reason
    pools = [replace(POOL, version_id=n, cpu_cores=cores) for n in (1, 2)]
    assert [count for _, count in lease.pool_shares(pools, HOST, room, {}, ())] == [1]
    assert lease.choose([("cpu", cores)] * 3, room) == [0]


def test_limits_per_host_and_per_user() -> None:
    assert lease.room(LeasePolicy(tasks_per_host=5), HOST, FREE, "", 60).cpu == 3  # 2 for GPUs
    busy = replace(HOST, user_leased=99)
    room = lease.room(LeasePolicy(tasks_per_user=100), busy, FREE, "", 60)
    assert room.cpu + room.gpu == 1


@pytest.mark.parametrize(
    "pool",
    [
        replace(POOL, memory_bytes=65 * GIB),
        replace(POOL, cpu_cores=17),
        replace(POOL, environment="jax"),
    ],
)
def test_workunits_that_do_not_fit_are_not_offered(pool: PoolView) -> None:
    assert not lease.fits(pool, HOST)
    assert lease.pool_shares([pool], HOST, Room(cpu=4, gpu=0), {}, set()) == []


def test_pools_share_by_weight_and_take_turns() -> None:
    pools = [replace(POOL, version_id=1, weight=3.0), replace(POOL, version_id=2, weight=1.0)]
    shares = lease.pool_shares(pools, HOST, Room(cpu=16, gpu=0), {}, set())
    assert [(p.version_id, n) for p, n in shares] == [(1, 12), (2, 4)]
    one = lease.pool_shares(pools, HOST, Room(cpu=1, gpu=0), {(1, "cpu"): 5.0}, set())
    assert [(p.version_id, n) for p, n in one] == [(2, 1)]
    without = lease.pool_shares(pools, HOST, Room(cpu=16, gpu=0), {}, {(1, "cpu")})
    assert [(p.version_id, n) for p, n in without] == [(2, 16)]


def test_only_fitting_candidates_are_chosen() -> None:
    sizes = [("cpu", 3), ("cpu", 2), ("gpu", 1), ("cpu", 1), ("gpu", 1)]
    assert lease.choose(sizes, Room(cpu=4, gpu=1)) == [0, 2, 3]  # type: ignore[arg-type]


def test_a_slow_host_has_longer() -> None:
    policy = LeasePolicy(deadline_min_seconds=10.0)
    assert lease.lease_seconds(policy, 100, 1.0, 0) == 1000
    assert lease.lease_seconds(policy, 100, 4.0, 50) == 4050
    assert lease.lease_seconds(LeasePolicy(), 1, 1.0, 0) == 6 * 3600


def test_a_host_that_fails_gets_no_more_slots_than_it_has() -> None:
    broken = replace(HOST, failing=lease.FAILS_REPEATEDLY)
    claims = Capacity(cpu_slots=500, cpu_slots_free=500, gpu_slots=50, gpu_slots_free=50)
    room = lease.room(LeasePolicy(), broken, claims, "", 60)
    assert (room.cpu, room.gpu, room.tasks) == (16, 2, 1)
    busy = replace(broken, leased={"cpu": 1, "gpu": 0})
    room = lease.room(LeasePolicy(), busy, claims, "", 60)
    assert (room.cpu, room.gpu) == (0, 0)


@pytest.mark.parametrize(
    ("free", "cpu", "gpu"),
    [
        (Capacity(cpu_slots=16, cpu_slots_free=3, gpu_slots=2, gpu_slots_free=1), 3, 1),
        (Capacity(cpu_slots=3, cpu_slots_free=16, gpu_slots=1, gpu_slots_free=2), 3, 1),
    ],
)
def test_slots_that_are_busy_or_not_usable_get_nothing(free: Capacity, cpu: int, gpu: int) -> None:
    for failing in (0, 2):
        room = lease.room(LeasePolicy(), replace(HOST, failing=failing), free, "", 60)
        assert (room.cpu, room.gpu) == (cpu, gpu)


def test_a_task_on_each_device_is_two_tasks() -> None:
    busy = replace(HOST, failing=2, leased={"cpu": 1, "gpu": 1})
    assert lease.room(LeasePolicy(), busy, FREE, "", 60).cpu == 0


def test_one_task_at_a_time_is_told_unless_the_account_gets_none() -> None:
    broken = replace(HOST, failing=2)
    told = "its last tasks failed; it gets one at a time until one succeeds"
    for quota in (None, 1, 2):
        assert lease.room(LeasePolicy(), replace(broken, quota=quota), FREE, "", 60).reason == told
    none = lease.room(LeasePolicy(), replace(broken, quota=0), FREE, "", 60)
    assert (none.tasks, none.reason) == (0, lease.EARNING)


def test_limits_that_are_reached_leave_no_room_and_are_told() -> None:
    reached = "the limit of tasks for this host or user is reached"
    policy = LeasePolicy(tasks_per_host=5)
    for held, tasks in ((3, 2), (5, 0), (7, 0)):
        room = lease.room(policy, replace(HOST, leased={"cpu": held, "gpu": 0}), FREE, "", 60)
        assert (room.tasks, room.reason) == (tasks, "" if tasks else reached)
    policy = LeasePolicy(tasks_per_user=5)
    for held, tasks in ((4, 1), (5, 0), (9, 0)):
        room = lease.room(policy, replace(HOST, user_leased=held), FREE, "", 60)
        assert (room.tasks, room.reason) == (tasks, "" if tasks else reached)


@pytest.mark.parametrize(
    ("cpu", "gpu", "quota", "reason"),
    [
        (1, 1, 0, lease.EARNING), (1, 0, 0, lease.EARNING), (0, 1, 0, lease.EARNING),
        (0, 0, 0, ""), (1, 1, 1, ""), (0, 0, 1, ""),
    ],
)  # fmt: skip
def test_an_account_that_holds_all_it_may_is_told(
    cpu: int, gpu: int, quota: int, reason: str
) -> None:
    free = Capacity(cpu_slots=16, cpu_slots_free=cpu, gpu_slots=2, gpu_slots_free=gpu)
    assert lease.room(LeasePolicy(), replace(HOST, quota=quota), free, "", 60).reason == reason


def test_a_buffer_is_filled_with_tasks_of_a_second_at_least() -> None:
    asks = Capacity(cpu_slots=2, buffer_seconds=10.0)
    for mean, tasks in ((0.001, 20), (1.0, 20), (2.0, 10), (3.0, 7)):
        assert lease.room(LeasePolicy(), HOST, asks, "", mean).cpu == tasks


def test_what_fits_just_fits() -> None:
    assert lease.fits(replace(POOL, memory_bytes=64 * GIB, cpu_cores=16), HOST)
    gpu_less = replace(HOST, gpus=0)
    assert lease.fits(POOL, gpu_less)
    assert not lease.fits(replace(POOL, device="gpu"), gpu_less)
    assert lease.fits(replace(POOL, device="gpu"), replace(HOST, gpus=1))


def shares(pools: list[PoolView], cpu: float, granted: dict[int, float]) -> list[tuple[int, int]]:
    counts = {(version, "cpu"): count for version, count in granted.items()}
    found = lease.pool_shares(pools, HOST, Room(cpu=cpu, gpu=0), counts, set())
    return [(pool.version_id, count) for pool, count in found]


def test_tasks_of_several_cores_take_as_many_slots() -> None:
    wide, narrow = replace(POOL, cpu_cores=4), replace(POOL, version_id=2)
    assert shares([wide], 8, {}) == [(1, 2)]
    assert shares([wide, narrow], 8, {}) == [(1, 1), (2, 4)]
    # Half of four slots are too few for it, but all four are not; three are.
    assert shares([wide, narrow], 4, {}) == [(1, 1)]
    assert shares([wide, narrow], 3, {}) == [(2, 3)]


def test_a_pool_that_was_never_taken_from_is_the_first() -> None:
    pools = [POOL, replace(POOL, version_id=2)]
    assert shares(pools, 1, {1: 0.5}) == [(2, 1)]


def test_pools_without_weight_get_nothing() -> None:
    assert shares([replace(POOL, weight=0.0)], 4, {}) == []


def test_only_gpus_run_tasks_together() -> None:
    many = replace(HOST, gpu_cohort=8)
    assert lease.together(replace(POOL, cohort=8), many) == 1
    assert lease.together(replace(POOL, cohort=8, device="gpu"), many) == 8


def test_bounds_of_a_lease() -> None:
    policy = LeasePolicy(deadline_min_seconds=10.0)
    assert lease.lease_seconds(policy, 60, 1000.0, 0) == 60_000
    assert lease.lease_seconds(policy, 60, 0.001, 0) == 60
    assert lease.lease_seconds(policy, 10 * lease.DAY, 1.0, 0) == 30 * lease.DAY
