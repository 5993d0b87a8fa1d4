"""NUMA nodes, hybrid cores, and cores that come and go: recorded sysfs trees, then real tasks."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from axiom_client.decide.task_run import TaskFinished
from axiom_client.host import core_lists, cores
from axiom_client.host.core_lists import NodePlaces, numa_nodes, parse, slow_cores
from axiom_client.host.cores import cores_now
from tests.support.running import Recorder, make_spec, script, with_pool

HERE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def tree(devices: Path, files: dict[str, str]) -> Path:
    """A part of /sys/devices."""
    for name, content in files.items():
        (devices / name).parent.mkdir(parents=True, exist_ok=True)
        (devices / name).write_text(content + "\n")
    return devices


def usable(patch: pytest.MonkeyPatch, *listed: int) -> None:
    """The cores that the kernel says this process may use."""
    patch.setattr(os, "sched_getaffinity", lambda pid: set(listed))


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("0-3,8", {0, 1, 2, 3, 8}),
        ("5", {5}),
        ("", set()),
        ("\n", set()),
        ("0-1,many", set()),
        ("0-63,128-191", {*range(64), *range(128, 192)}),
    ],
)
def test_lists_of_the_kernel(text: str, listed: set[int]) -> None:
    assert parse(text) == listed


# ---- nodes


#: Two sockets of 64 cores with two threads each, and a node of memory without cores (CXL).
TWO_SOCKETS = {
    "system/node/node0/cpulist": "0-63,128-191",
    "system/node/node1/cpulist": "64-127,192-255",
    "system/node/node2/cpulist": "",
}


def test_256_cores_in_two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usable(monkeypatch, *range(256))
    nodes = numa_nodes(tree(tmp_path, TWO_SOCKETS))
    assert [len(node) for node in nodes] == [128, 128]
    places = NodePlaces()
    placed = Counter(places.place(task_id, nodes)[0] for task_id in range(256))
    assert placed == {0: 128, 64: 128}


def test_ten_nodes_are_in_the_order_of_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable(monkeypatch, *range(11))
    found = numa_nodes(tree(tmp_path, {f"system/node/node{i}/cpulist": str(i) for i in range(11)}))
    assert found == [{i} for i in range(11)]


def test_a_cpuset_in_one_node_leaves_nothing_to_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable(monkeypatch, 64, 65, 66)
    assert numa_nodes(tree(tmp_path, TWO_SOCKETS)) == []


def test_one_node_no_files_and_nonsense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usable(monkeypatch, 0, 1)
    assert numa_nodes(tmp_path) == []
    assert numa_nodes(tree(tmp_path, {"system/node/node0/cpulist": "0-1"})) == []
    assert numa_nodes(tree(tmp_path, {"system/node/node1/cpulist": "?"})) == []


def test_tasks_go_where_fewest_are_for_a_node_s_size() -> None:
    small, large = frozenset({0}), frozenset({1, 2, 3})
    places = NodePlaces()
    placed = [places.place(task_id, [small, large]) for task_id in range(4)]
    assert Counter(placed) == {(0,): 1, (1, 2, 3): 3}
    places.leave(placed.index((0,)))
    assert places.place(9, [small, large]) == (0,)
    assert places.place(10, []) == ()


def test_nodes_that_shrink_and_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cpuset that changes while tasks run: those that run keep their places."""
    devices, places = tree(tmp_path, TWO_SOCKETS), NodePlaces()
    usable(monkeypatch, 0, 1, 64, 65)
    assert places.place(1, numa_nodes(devices)) == (0, 1)
    usable(monkeypatch, 1, 64, 65)
    assert places.place(2, numa_nodes(devices)) == (64, 65)
    assert places.place(3, numa_nodes(devices)) == (64, 65)  # two cores, against one with a task
    usable(monkeypatch, 64, 65)
    assert places.place(4, numa_nodes(devices)) == ()
    usable(monkeypatch, 0, 1, 64, 65)
    assert places.place(5, numa_nodes(devices)) == (0, 1)


# ---- hybrid processors


ARM = {f"system/cpu/cpu{i}/cpu_capacity": c for i, c in enumerate(["250"] * 4 + ["860", "1024"])}


@pytest.mark.parametrize(
    ("files", "slow"),
    [
        ({"cpu_core/cpus": "0-11", "cpu_atom/cpus": "12-19"}, {*range(12, 20)}),
        (
            {"cpu_core/cpus": "0-11", "cpu_atom/cpus": "12-19", "cpu_lowpower/cpus": "20-21"},
            {*range(12, 22)},
        ),
        (ARM, {0, 1, 2, 3}),  # with a kind between them, which is not slow
        ({f"system/cpu/cpu{i}/cpu_capacity": "1024" for i in range(4)}, set()),
        ({"cpu_atom/cpus": "", "system/cpu/cpu0/cpu_capacity": "?"}, set()),
        ({}, set()),
    ],
    ids=["two kinds", "three kinds", "arm", "all alike", "nonsense", "no files"],
)
def test_efficiency_cores(tmp_path: Path, files: dict[str, str], slow: set[int]) -> None:
    assert slow_cores(tree(tmp_path, files)) == slow


# ---- cores that come and go


def test_cores_are_counted_anew_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugged cores and changed cpusets show in the affinity, quotas in the cgroup's file."""
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(cores, "levels", lambda controller: [tmp_path])
    monkeypatch.setattr(cores, "allocated_cores", lambda: None)
    usable(monkeypatch, *range(16))
    assert cores_now() == 16
    usable(monkeypatch, *range(12))
    assert cores_now() == 12
    quota.write_text("350000 100000\n")
    assert cores_now() == 3
    quota.write_text("max 100000\n")
    assert cores_now() == 12


# ---- real tasks


FINDING = "import os\nvalue = sorted(os.sched_getaffinity(0))"
WORKING = """
import time
task.progress(0.1)
while time.process_time() < 3.0:
    sum(range(10_000))
value = [1]
"""
needs_two = pytest.mark.skipif(len(HERE) < 2, reason="this machine has one core")


@needs_two
@pytest.mark.parametrize("prefer", ["warm", "cold"])
def test_a_task_stays_on_its_node(tmp_path: Path, prefer: Literal["warm", "cold"]) -> None:
    async def use(recorder: Recorder) -> None:
        for core in HERE[:2]:
            spec = make_spec(tmp_path, script(FINDING))
            finished = await recorder.finish(msgspec.structs.replace(spec, cores=(core,)))
            assert finished.outcome == "success", finished.message
            assert finished.result["value"] == [core]
        free = await recorder.finish(make_spec(tmp_path, script(FINDING)))
        assert free.result["value"] == HERE

    with_pool(use, prefer)


@needs_two
def test_a_task_cannot_leave_its_node(tmp_path: Path) -> None:
    body = f"import os\nos.sched_setaffinity(0, {HERE})"

    async def use(recorder: Recorder) -> TaskFinished:
        spec = make_spec(tmp_path, script(body))
        return await recorder.finish(msgspec.structs.replace(spec, cores=(HERE[0],)))

    finished: TaskFinished = with_pool(use)
    assert finished.outcome == "failed"
    assert "Operation not permitted" in finished.message


def test_cores_that_are_gone_are_no_reason_to_fail(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> TaskFinished:
        spec = make_spec(tmp_path, script(FINDING))
        return await recorder.finish(msgspec.structs.replace(spec, cores=(4000,)))

    finished: TaskFinished = with_pool(use)
    assert finished.result["value"] == HERE


@needs_two
@pytest.mark.parametrize(("on", "kind"), [(0, ""), (1, "efficiency")])
def test_a_task_knows_which_kind_of_core_it_ran_on(tmp_path: Path, on: int, kind: str) -> None:
    async def use(recorder: Recorder) -> TaskFinished:
        spec = make_spec(tmp_path, script(WORKING))
        placed = msgspec.structs.replace(
            spec, cores=(HERE[on],), slow=core_lists.parse(str(HERE[1]))
        )
        return await recorder.finish(placed)

    finished: TaskFinished = with_pool(use)
    assert (finished.outcome, finished.core_kind) == ("success", kind)
