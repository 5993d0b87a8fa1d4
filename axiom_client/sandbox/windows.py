"""The policy as the attributes of a Windows job object and an AppContainer. Pure.

Written from Microsoft's documentation of SetInformationJobObject and CreateAppContainerProfile. It
has not been run on Windows yet: what it enforces there is what ``selftest`` finds when it tries
everything. See docs/sandbox.md.
"""

from __future__ import annotations

import math
import struct

from msgspec import Struct

from axiom_client.sandbox.policy import RUNTIME_BYTES, Policy

# JOB_OBJECT_LIMIT_*
_PROCESS_TIME, _ACTIVE_PROCESS, _PRIORITY_CLASS = 0x0002, 0x0008, 0x0020
_PROCESS_MEMORY, _JOB_MEMORY = 0x0100, 0x0200
_DIE_ON_UNHANDLED_EXCEPTION, _KILL_ON_JOB_CLOSE = 0x0400, 0x2000
_IDLE_PRIORITY_CLASS, _NORMAL_PRIORITY_CLASS = 0x0040, 0x0020
_TICKS_PER_SECOND = 10_000_000  # 100 ns

# JOB_OBJECT_UILIMIT_*: handles, clipboard, parameters, display, atoms, desktop, exit
_UI_ALL = 0x00FF
# JOB_OBJECT_CPU_RATE_CONTROL_*; the rate is in 1/10,000 of all processors together
_RATE_ENABLE, _RATE_HARD_CAP, _RATE_WHOLE = 0x1, 0x4, 10_000
# JOBOBJECTINFOCLASS
UI_RESTRICTIONS, EXTENDED_LIMITS, GROUPS, CPU_RATE = 4, 9, 11, 15

#: The capability by which a task reads the interpreter and the libraries; no task has another.
READ_CAPABILITY = "axiomClientReadLibraries"


class JobAttributes(Struct, frozen=True, kw_only=True):
    """The limits of one task's job object.

    cpu_rate   in 1/10,000 of all cores; 0: no limit
    group      the group of at most 64 cores that the task may use; None: Windows chooses
    """

    limit_flags: int
    process_time_ticks: int
    active_processes: int
    priority_class: int
    process_memory_bytes: int
    cpu_rate: int = 0
    group: int | None = None
    ui_restrictions: int = _UI_ALL

    def packed(self) -> bytes:
        """JOBOBJECT_EXTENDED_LIMIT_INFORMATION of a 64-bit Windows, 144 bytes."""
        basic = struct.pack(
            "<qqI4xQQI4xQII",
            self.process_time_ticks, 0, self.limit_flags, 0, 0, self.active_processes, 0,
            self.priority_class, 0,
        )  # fmt: skip
        counters = bytes(48)  # IO_COUNTERS, an output
        memory = struct.pack("<QQQQ", self.process_memory_bytes, self.process_memory_bytes, 0, 0)
        return basic + counters + memory

    def settings(self) -> list[tuple[int, bytes]]:
        """(JOBOBJECTINFOCLASS, data) for each call of SetInformationJobObject."""
        rate = struct.pack("<II", _RATE_ENABLE | _RATE_HARD_CAP, self.cpu_rate)
        return [
            (EXTENDED_LIMITS, self.packed()),
            *([(UI_RESTRICTIONS, _dword(self.ui_restrictions))] if self.ui_restrictions else []),
            *([(CPU_RATE, rate)] if self.cpu_rate else []),
            *([] if self.group is None else [(GROUPS, struct.pack("<H", self.group))]),
        ]


#: A job object that does nothing but end its processes when its last handle is closed.
END_WITH_HANDLE = JobAttributes(
    limit_flags=_KILL_ON_JOB_CLOSE,
    process_time_ticks=0,
    active_processes=0,
    priority_class=0,
    process_memory_bytes=0,
    ui_restrictions=0,
)


class ContainerAttributes(Struct, frozen=True, kw_only=True):
    """An AppContainer. Without one of Windows' own capabilities it has no network or device."""

    name: str
    capabilities: tuple[str, ...]
    read_only: tuple[str, ...]  # granted to the capability: read, execute
    read_write: tuple[str, ...]  # granted to this container alone: read, write, delete


def group_of(turn: int, groups: list[int]) -> int | None:
    """The processor group of the task whose turn it is: tasks are spread as the cores are.

    A process runs in one group of at most 64 cores, and Windows may start all children of an agent
    in the agent's own. None where there is one group.
    """
    if len(groups) < 2:
        return None
    place = turn % sum(groups)
    for group, cores in enumerate(groups):
        if place < cores:
            return group
        place -= cores
    raise AssertionError("the remainder is less than the sum")


def _dword(value: int) -> bytes:
    return struct.pack("<I", value)


def job_attributes(
    policy: Policy, cores: int = 0, group: int | None = None, *, nested: bool = False
) -> JobAttributes:
    """One process, limited in memory and CPU time, killed when the agent's handle closes.

    cores    of this host; a task without a GPU gets one of them
    nested   the agent is in a job object itself, as under the Task Scheduler. Then Windows accepts
             no limits on the user interface ("Nested Jobs"); the AppContainer is left for that
    """
    priority = _IDLE_PRIORITY_CLASS if policy.background else _NORMAL_PRIORITY_CLASS
    memory = policy.limits.memory_bytes + RUNTIME_BYTES
    return JobAttributes(
        limit_flags=_PROCESS_TIME
        | _ACTIVE_PROCESS
        | _PRIORITY_CLASS
        | _PROCESS_MEMORY
        | _JOB_MEMORY
        | _DIE_ON_UNHANDLED_EXCEPTION
        | _KILL_ON_JOB_CLOSE,
        process_time_ticks=int(policy.limits.cpu_seconds * _TICKS_PER_SECOND),
        active_processes=1,
        priority_class=priority,
        process_memory_bytes=memory,
        cpu_rate=math.ceil(_RATE_WHOLE / cores) if cores and not policy.threads else 0,
        group=group,
        ui_restrictions=0 if nested else _UI_ALL,
    )


def container_attributes(policy: Policy, name: str) -> ContainerAttributes:
    """The container of one task. ``name`` must be unique on the host; 64 characters are kept."""
    return ContainerAttributes(
        name=name[:64],
        capabilities=(READ_CAPABILITY,),
        read_only=tuple(path for path in policy.read_only if not path.startswith("/")),
        read_write=(policy.folder, *policy.folders),
    )
