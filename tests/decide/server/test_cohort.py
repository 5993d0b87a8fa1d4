"""The server and cohorts: grants and deployments for a GPU that runs many seeds together."""

from __future__ import annotations

import pytest

from axiom_protocol.messages import Capacity
from axiom_server.decide import deploy, lease
from axiom_server.decide.deploy import Candidate, IdleHost
from axiom_server.decide.lease import HostView, LeasePolicy, PoolView

POOL = PoolView(
    version_id=1, device="gpu", environment="torch", cpu_cores=1, memory_bytes=1,
    expected_seconds=40.0, cohort=64,
)  # fmt: skip


def host(cohort: int, held: float = 0.0, quota: int | None = None) -> HostView:
    return HostView(
        cpu_cores=1, gpus=1, memory_bytes=1 << 40, environments=frozenset({"torch"}),
        leased={"cpu": 0, "gpu": held}, quota=quota, gpu_cohort=cohort,
    )  # fmt: skip


def granted(view: HostView, buffer_seconds: float = 0.0) -> int:
    capacity = Capacity(gpu_slots=1, gpu_slots_free=1, buffer_seconds=buffer_seconds)
    mean = POOL.expected_seconds * lease.together(POOL, view)
    room = lease.room(LeasePolicy(), view, capacity, "", mean)
    return sum(count for _, count in lease.pool_shares([POOL], view, room, {}, ()))


@pytest.mark.parametrize(("cohort", "count"), [(1, 1), (8, 8), (48, 48), (64, 64), (256, 64)])
def test_a_free_gpu_gets_as_many_as_it_runs_together(cohort: int, count: int) -> None:
    assert granted(host(cohort)) == count


def test_a_gpu_that_is_full_gets_no_more_and_a_buffer_counts_in_cohorts() -> None:
    assert granted(host(64, held=1.0)) == 0
    assert granted(host(64), buffer_seconds=64 * 40.0) == 128


def test_a_new_accounts_quota_counts_tasks() -> None:
    assert granted(host(64, quota=10)) == 10


def test_fill_idle_fills_a_gpu_with_a_cohort() -> None:
    candidates = [
        Candidate(version_id=1, environment="torch", cohort=64),
        Candidate(version_id=2, environment="torch"),
    ]
    old = [IdleHost(host_id=1, cpu=0, gpu=2)]
    placed = {p.version_id: p.count for p in deploy.fill_idle(candidates, old, ["gpu"])}
    assert placed == {1: 1, 2: 1}
    new = [IdleHost(host_id=1, cpu=0, gpu=2, gpu_cohort=256)]
    placed = {p.version_id: p.count for p in deploy.fill_idle(candidates, new, ["gpu"])}
    assert placed == {1: 64, 2: 1}
    poor = [IdleHost(host_id=1, cpu=0, gpu=2, gpu_cohort=256, earned=10)]
    assert sum(p.count for p in deploy.fill_idle(candidates, poor, ["gpu"])) == 10
