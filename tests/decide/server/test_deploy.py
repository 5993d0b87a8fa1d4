"""Fill idle: exactly what is idle, experiments spread evenly."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from axiom_server.decide.deploy import Candidate, IdleHost, fill_idle, spread

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
