"""The cores and memory that the agent may use: cgroups of both versions, Slurm, affinity."""

from __future__ import annotations

from pathlib import Path

import pytest

from axiom_client.host.cgroup import MemoryLimit, cpu_quota, levels, memory_limit
from axiom_client.host.cores import probe_cores, probe_memory, usable_cores
from axiom_client.host.slurm import allocated_cores, allocated_memory_bytes

GIB = 1 << 30
V1_NO_LIMIT = "9223372036854771712"  # what version 1 writes for none

#: name -> (/proc/self/cgroup, files below /sys/fs/cgroup, quota in cores, memory limit)
TREES = {
    "none": ("0::/\n", {"cgroup.controllers": "cpu memory"}, None, None),
    "container of 1.5 cores, version 2": (
        "0::/\n",
        {"cgroup.controllers": "cpu memory", "cpu.max": "150000 100000",
         "memory.max": str(2 * GIB), "memory.current": str(GIB),
         "memory.stat": "anon 5\ninactive_file 268435456\n"},
        1.5, MemoryLimit(limit_bytes=2 * GIB, used_bytes=GIB - 268435456),
    ),
    "a service in a slice: the tightest of both": (
        "0::/batch.slice/axiom.service\n",
        {"cgroup.controllers": "cpu memory",
         "batch.slice/cpu.max": "200000 100000", "batch.slice/memory.max": str(4 * GIB),
         "batch.slice/axiom.service/cpu.max": "max 100000",
         "batch.slice/axiom.service/memory.max": str(8 * GIB)},
        2.0, MemoryLimit(limit_bytes=4 * GIB, used_bytes=0),
    ),
    "limits written as max": (
        "0::/user.slice\n",
        {"cgroup.controllers": "cpu", "user.slice/cpu.max": "max 100000",
         "user.slice/memory.max": "max"},
        None, None,
    ),
    "a container that sees its host's path": (
        "0::/system.slice/docker-0a1b.scope\n",
        {"cgroup.controllers": "cpu", "cpu.max": "50000 100000", "memory.max": str(GIB)},
        0.5, MemoryLimit(limit_bytes=GIB, used_bytes=0),
    ),
    "a path that leads out of the tree": (
        "0::/../../etc\n",
        {"cgroup.controllers": "cpu", "cpu.max": "100000 100000"},
        1.0, None,
    ),
    "version 1": (
        "12:memory:/docker/ab\n7:cpu,cpuacct:/docker/ab\n0::/docker/ab\n",
        {"cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "350000",
         "cpu,cpuacct/docker/ab/cpu.cfs_period_us": "100000",
         "memory/docker/ab/memory.limit_in_bytes": str(3 * GIB),
         "memory/docker/ab/memory.usage_in_bytes": str(GIB),
         "memory/docker/ab/memory.stat": "cache 9\ntotal_inactive_file 1048576\n"},
        3.5, MemoryLimit(limit_bytes=3 * GIB, used_bytes=GIB - 1048576),
    ),
    "version 1 without limits": (
        "12:memory:/\n7:cpu,cpuacct:/\n",
        {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000",
         "memory/memory.limit_in_bytes": V1_NO_LIMIT},
        None, None,
    ),
    "version 1 for memory, version 2 for the rest": (
        "3:memory:/job\n0::/job\n",
        {"unified/cgroup.controllers": "cpu", "unified/job/cpu.max": "400000 100000",
         "memory/job/memory.limit_in_bytes": str(5 * GIB)},
        4.0, MemoryLimit(limit_bytes=5 * GIB, used_bytes=0),
    ),
    "Slurm's step, version 2": (
        "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n",
        {"cgroup.controllers": "cpuset cpu memory",
         "system.slice/slurmstepd.scope/job_7/memory.max": str(16 * GIB),
         "system.slice/slurmstepd.scope/job_7/step_0/user/task_0/memory.max": "max"},
        None, MemoryLimit(limit_bytes=16 * GIB, used_bytes=0),
    ),
    "nonsense in the files": (
        "0::/\n",
        {"cgroup.controllers": "cpu", "cpu.max": "much", "memory.max": "more"},
        None, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_cgroup_limits(tmp_path: Path, name: str) -> None:
    text, files, quota, memory = TREES[name]
    listing, root = tmp_path / "listing", tmp_path / "cgroup"
    listing.write_text(text)
    for file, content in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(content + "\n")
    assert cpu_quota(levels("cpu", listing, root)) == quota
    assert memory_limit(levels("memory", listing, root)) == memory


def test_a_system_without_cgroups_has_no_limits(tmp_path: Path) -> None:
    assert levels("cpu", tmp_path / "absent", tmp_path) == []


@pytest.mark.parametrize(
    ("affinity", "quota", "allocated", "usable"),
    [
        (240, None, None, 240),
        (64, 1.5, None, 1),
        (64, 0.5, None, 1),  # a share of a core still computes
        (64, 12.99, None, 12),
        (4, 16.0, None, 4),
        (128, None, 8, 8),
        (2, None, 8, 2),  # Slurm binds its tasks, and we must fit into what is ours
        (32, 4.0, 8, 4),
    ],
)
def test_usable_cores_are_whole_and_within_every_limit(
    affinity: int, quota: float | None, allocated: int | None, usable: int
) -> None:
    assert usable_cores(affinity, quota, allocated) == usable


@pytest.mark.parametrize(
    ("environment", "cores", "memory"),
    [
        ({}, None, None),
        ({"SLURM_CPUS_ON_NODE": "8"}, None, None),  # exported by hand: no job
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "8"}, 8, None),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "8", "SLURM_MEM_PER_NODE": "16384"},
         8, 16 * GIB),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "8", "SLURM_MEM_PER_CPU": "2048"},
         8, 16 * GIB),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "8", "SLURM_MEM_PER_NODE": "0"}, 8, None),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "0"}, None, None),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "8(x2)"}, None, None),
    ],
)  # fmt: skip
def test_slurm_allocation(
    environment: dict[str, str], cores: int | None, memory: int | None
) -> None:
    assert allocated_cores(environment) == cores
    assert allocated_memory_bytes(environment) == memory


def test_this_machine_is_within_its_own_limits() -> None:
    cores, memory = probe_cores(), probe_memory()
    assert 1 <= cores.usable <= cores.affinity <= cores.logical
    assert 0 < memory.free_bytes <= memory.total_bytes
