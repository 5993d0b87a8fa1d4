"""Fill idle: exactly what is idle, experiments spread evenly."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from axiom_server.decide.deploy import (
    Candidate,
    IdleHost,
    Placement,
    fill_idle,
    limit_by_standing,
    spread,
)

SIX = [Candidate(version_id=i, environment="torch") for i in range(6)]


@given(
    st.lists(st.tuples(st.integers(0, 64), st.integers(0, 4)), max_size=20),
    st.integers(1, 7),
)
def test_each_host_gets_exactly_its_idle_slots_and_the_mix_is_even(
    sizes: list[tuple[int, int]], experiments: int
) -> None:
    hosts = [IdleHost(host_id=i, cpu=cpu, gpu=gpu) for i, (cpu, gpu) in enumerate(sizes)]
    candidates = [Candidate(version_id=i, environment="torch") for i in range(experiments)]
    placed = fill_idle(candidates, hosts, ("cpu", "gpu"))
    for host in hosts:
        mine = [p for p in placed if p.host_id == host.host_id]
        assert sum(p.count for p in mine if p.device == "cpu") == host.cpu
        assert sum(p.count for p in mine if p.device == "gpu") == host.gpu
    counts = Counter[int]()
    for p in placed:
        counts[p.version_id] += p.count
    assert not placed or max(counts.values()) - min(counts[i] for i in range(experiments)) <= 1


def test_gpus_go_to_experiments_written_with_torch_and_cores_make_up_for_it() -> None:
    candidates = [
        Candidate(version_id=1, environment="numpy"),
        Candidate(version_id=2, environment="torch"),
    ]
    placed = fill_idle(candidates, [IdleHost(host_id=1, cpu=8, gpu=2)], ("cpu", "gpu"))
    assert {(p.version_id, p.device): p.count for p in placed} == {
        (2, "gpu"): 2,
        (1, "cpu"): 5,
        (2, "cpu"): 3,
    }


def test_large_experiments_take_several_cores() -> None:
    big = Candidate(version_id=1, environment="numpy", cpu_cores=3)
    placed = fill_idle([big], [IdleHost(host_id=1, cpu=8, gpu=0)], ("cpu",))
    assert [(p.count, p.version_id) for p in placed] == [(2, 1)]


def test_a_host_gets_only_environments_it_has() -> None:
    host = IdleHost(host_id=1, cpu=4, gpu=0, environments=frozenset({"numpy"}))
    assert fill_idle(SIX, [host], ("cpu",)) == []


def test_a_count_is_for_the_pool_or_for_each_host() -> None:
    assert sum(p.count for p in spread(SIX, 100, [None], "cpu")) == 100
    counts = Counter[int]()
    for p in spread(SIX, 7, [1, 2, 3, 4, 5], "cpu"):
        counts[p.version_id] += p.count
    assert sum(counts.values()) == 35
    assert max(counts.values()) - min(counts.values()) <= 1
    per_host = spread(SIX, 10, [7, 8], "cpu")
    assert {h: sum(p.count for p in per_host if p.host_id == h) for h in (7, 8)} == {7: 10, 8: 10}


def test_each_host_continues_where_the_one_before_ended() -> None:
    three = [Candidate(version_id=i, environment="torch") for i in range(3)]
    placed = spread(three, 2, [7, 8, 9], "gpu")
    assert set(placed) == {
        Placement(version_id=version, host_id=host, device="gpu", count=1)
        for host, versions in ((7, (0, 1)), (8, (2, 0)), (9, (1, 2)))
        for version in versions
    }
    assert len(placed) == 6, "none of no workunits"


def test_which_device_a_version_runs_on_and_how_many_slots_it_takes() -> None:
    for_gpus = Candidate(version_id=1, environment="numpy", cpu_cores=4, gpus=1)
    assert (for_gpus.fits("gpu"), for_gpus.fits("cpu")) == (True, False)
    assert (for_gpus.slots("gpu"), for_gpus.slots("cpu")) == (1, 4)
    numpy = Candidate(version_id=2, environment="numpy", cpu_cores=4)
    assert spread([for_gpus, numpy], 2, [None], "gpu") == [
        Placement(version_id=1, host_id=None, device="gpu", count=2)
    ]
    two = Candidate(version_id=3, environment="torch", cpu_cores=4, gpus=2)
    placed = fill_idle([two], [IdleHost(host_id=1, cpu=0, gpu=5)], ["gpu"])
    assert [p.count for p in placed] == [2]


def test_large_hosts_are_filled_first_and_cores_run_no_cohorts() -> None:
    many = Candidate(version_id=1, environment="torch", cohort=8)
    hosts = [IdleHost(host_id=i, cpu=cpu, gpu=0, gpu_cohort=8) for i, cpu in ((1, 2), (2, 9))]
    assert [(p.host_id, p.count) for p in fill_idle([many], hosts, ["cpu"])] == [(2, 9), (1, 2)]


def test_a_host_gets_what_its_account_may_still_have() -> None:
    for earned in (0, 1, 2):
        placed = fill_idle(SIX, [IdleHost(host_id=1, cpu=4, gpu=0, earned=earned)], ["cpu"])
        assert [p.count for p in placed] == [1] * earned


def test_idle_slots_are_limited_by_what_all_hosts_of_a_user_may_have() -> None:
    sizes = [(1, 0), (0, 1), (3, 2), (4, 4)]
    hosts = [
        IdleHost(host_id=i, cpu=cpu, gpu=gpu, user_id=1, earned=6)
        for i, (cpu, gpu) in enumerate(sizes)
    ]
    limited = limit_by_standing(hosts)
    assert [(h.host_id, h.cpu, h.gpu) for h in limited] == [(0, 1, 0), (1, 0, 1), (2, 2, 2)]
