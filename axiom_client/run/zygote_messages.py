"""What the agent and a zygote say to each other, kept apart from both: the agent must not import
what the zygote warms.
"""

from __future__ import annotations

from msgspec import Struct

MESSAGE_BYTES_MAX = 8192


class ZygoteCommand(Struct, frozen=True, tag_field="kind"):
    """What the agent tells a zygote."""

    task_id: int


class Start(ZygoteCommand, frozen=True, tag="start"):
    """Run this task; its channel and output come along as descriptors."""


class Signal(ZygoteCommand, frozen=True, tag="signal"):
    """Send these signals to this task, in this order; nothing where it has ended."""

    numbers: list[int]


class Ready(Struct, frozen=True, tag="ready", tag_field="kind"):
    """Imported and warm."""


class Broken(Struct, frozen=True, tag="broken", tag_field="kind"):
    """The environment cannot be imported here."""

    message: str


class Started(Struct, frozen=True, tag="started", tag_field="kind"):
    """The task has a process. ``at``: seconds of CLOCK_MONOTONIC, which all processes share."""

    task_id: int
    pid: int
    at: float


class Ended(Struct, frozen=True, tag="ended", tag_field="kind"):
    """The task's process is reaped: its wait status and its usage."""

    task_id: int
    status: int
    at: float
    user_seconds: float
    system_seconds: float
    peak_memory_bytes: int


ZygoteMessage = Ready | Broken | Started | Ended
