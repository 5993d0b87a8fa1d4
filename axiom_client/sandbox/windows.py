"""The policy as the attributes of a Windows job object and an AppContainer.

Written from Microsoft's documentation of SetInformationJobObject, CreateAppContainerProfile and
UpdateProcThreadAttribute. It has NOT been run on Windows, so ``mode.choose`` refuses work
there. See docs/sandbox.md.
"""

from __future__ import annotations

import struct

from msgspec import Struct

from axiom_client.sandbox.policy import Policy

# JOB_OBJECT_LIMIT_*
_PROCESS_TIME, _ACTIVE_PROCESS, _PRIORITY_CLASS = 0x0002, 0x0008, 0x0020
_PROCESS_MEMORY, _JOB_MEMORY = 0x0100, 0x0200
_DIE_ON_UNHANDLED_EXCEPTION, _KILL_ON_JOB_CLOSE = 0x0400, 0x2000
_IDLE_PRIORITY_CLASS, _NORMAL_PRIORITY_CLASS = 0x0040, 0x0020
_TICKS_PER_SECOND = 10_000_000  # 100 ns

# JOB_OBJECT_UILIMIT_*: handles, clipboard, parameters, display, atoms, desktop, exit
_UI_ALL = 0x00FF

#: Memory of the interpreter and the libraries before an experiment is loaded: a job object counts
#: it, while a policy's limit is in addition to it.
RUNTIME_BYTES = 1_500_000_000


class JobAttributes(Struct, frozen=True, kw_only=True):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION and JOBOBJECT_BASIC_UI_RESTRICTIONS."""

    limit_flags: int
    process_time_ticks: int
    active_processes: int
    priority_class: int
    process_memory_bytes: int
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


class ContainerAttributes(Struct, frozen=True, kw_only=True):
    """An AppContainer. Without any capability it has no network, media library or device."""

    name: str
    capabilities: tuple[str, ...]
    read_only: tuple[str, ...]  # granted to the container's SID: FILE_GENERIC_READ
    read_write: tuple[
        str, ...
    ]  # granted to the container's SID: FILE_GENERIC_READ | WRITE | DELETE


def job_attributes(policy: Policy) -> JobAttributes:
    """One process, limited in memory and CPU time, killed when the agent's handle closes."""
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
    )


def container_attributes(policy: Policy, name: str) -> ContainerAttributes:
    """The container of one task. ``name`` must be unique on the host; 64 characters are kept."""
    return ContainerAttributes(
        name=name[:64],
        capabilities=(),
        read_only=tuple(path for path in policy.read_only if not path.startswith("/")),
        read_write=(policy.folder, *policy.folders),
    )
