"""Which cores belong together: NUMA nodes, and the slower cores of a hybrid processor.

Source: Documentation/admin-guide/mm/numaperf.rst and ABI/stable/sysfs-devices-node (nodes);
the PMUs ``cpu_atom`` and ``cpu_lowpower`` of Intel's hybrid processors; ``cpu_capacity``
(ABI/testing/sysfs-devices-system-cpu) on Arm. Empty on other systems, and where nothing is said.
"""

from __future__ import annotations

import os
from pathlib import Path

DEVICES = Path("/sys/devices")
_SLOW_UNITS = ("cpu_atom", "cpu_lowpower")
_SLOW_SHARE = 0.7  # of the largest capacity; a middle kind of core has 0.8 and more


def numa_nodes(devices: Path = DEVICES) -> list[frozenset[int]]:
    """The cores of each node that this process may use now; empty where fewer than two have any."""
    usable = _usable_cores()
    folders = sorted(devices.glob("system/node/node[0-9]*"), key=lambda p: int(p.name[4:]))
    nodes = [usable & parse(_read(folder / "cpulist")) for folder in folders]
    nodes = [cores for cores in nodes if cores]
    return nodes if len(nodes) > 1 else []


def slow_cores(devices: Path = DEVICES) -> frozenset[int]:
    """The efficiency cores of a processor with two kinds; empty where all cores are alike."""
    units = frozenset[int]().union(*(parse(_read(devices / u / "cpus")) for u in _SLOW_UNITS))
    return units or _of_low_capacity(devices)


def parse(text: str) -> frozenset[int]:
    """A list of the kernel's, such as "0-3,8"; empty where it is none."""
    cores: set[int] = set()
    try:
        for part in filter(None, text.strip().split(",")):
            first, _, last = part.partition("-")
            cores.update(range(int(first), int(last or first) + 1))
    except ValueError:
        return frozenset()
    return frozenset(cores)


def _of_low_capacity(devices: Path) -> frozenset[int]:
    found = {
        int(path.parent.name[3:]): int(text)
        for path in devices.glob("system/cpu/cpu[0-9]*/cpu_capacity")
        if (text := _read(path).strip()).isdecimal()
    }
    limit = _SLOW_SHARE * max(found.values(), default=0)
    return frozenset(core for core, capacity in found.items() if capacity < limit)


def _usable_cores() -> frozenset[int]:
    """None on systems that do not say it; they have no such files either."""
    if not hasattr(os, "sched_getaffinity"):
        return frozenset()
    return frozenset(os.sched_getaffinity(0))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


class NodePlaces:
    """Spreads tasks over the NUMA nodes; each task stays on its own."""

    def __init__(self) -> None:
        self._held: dict[int, frozenset[int]] = {}

    def place(self, task_id: int, nodes: list[frozenset[int]]) -> tuple[int, ...]:
        """The cores of the node with the fewest tasks for its size; empty without nodes.

        Nodes may change between two calls: cores are plugged, and cpusets change.
        """
        if not nodes:
            return ()
        node = min(nodes, key=self._tasks_per_core)
        self._held[task_id] = node
        return tuple(sorted(node))

    def leave(self, task_id: int) -> None:
        """The task has ended."""
        self._held.pop(task_id, None)

    def _tasks_per_core(self, node: frozenset[int]) -> float:
        return sum(not held.isdisjoint(node) for held in self._held.values()) / len(node)
