"""The messages between the agent and a process that has loaded libraries ahead: a zygote, or a
standby process. A module of its own, because the agent must not import these libraries.
"""

from __future__ import annotations

from msgspec import Struct

MESSAGE_BYTES_MAX = 8192


class ZygoteCommand(Struct, frozen=True, tag_field="kind"):
    """A command of the agent to a zygote."""

    task_id: int


class Start(ZygoteCommand, frozen=True, tag="start"):
    """Run this task; its channel and output are sent along as descriptors."""


class Signal(ZygoteCommand, frozen=True, tag="signal"):
    """Send these signals to this task in this order; does nothing if it has ended."""

    numbers: list[int]


class Ready(Struct, frozen=True, tag="ready", tag_field="kind"):
    """The libraries are loaded; tasks can be started."""


class Broken(Struct, frozen=True, tag="broken", tag_field="kind"):
    """The environment's libraries cannot be imported on this host."""

    message: str


class Received(Struct, frozen=True, tag="received", tag_field="kind"):
    """A standby process has its task's channel and output; the agent may close its copies."""


class Started(Struct, frozen=True, tag="started", tag_field="kind"):
    """The task has a process. ``at``: seconds of CLOCK_MONOTONIC, which all processes share.

    cpu_seconds   what the process has used before, to load libraries
    """

    task_id: int
    pid: int
    at: float
    cpu_seconds: float = 0.0


class Ended(Struct, frozen=True, tag="ended", tag_field="kind"):
    """The task's process is reaped: its wait status and its usage."""

    task_id: int
    status: int
    at: float
    user_seconds: float
    system_seconds: float
    peak_memory_bytes: int


ZygoteMessage = Ready | Broken | Started | Ended
StandbyMessage = Ready | Broken | Received
