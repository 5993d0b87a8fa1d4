"""What the pool is told to run, and what it tells back."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from axiom_client.sandbox.policy import DriverAccess
from axiom_protocol.messages import Outcome

Environment = Literal["numpy", "torch"]


class TaskLimits(Struct, frozen=True, kw_only=True):
    """How much a task may use. Passing one ends it with an outcome and a message that name it.

    memory_bytes    beyond what the interpreter and the libraries take themselves
    disk_bytes      all of the task's folder together, and any one file
    cpu_seconds     user and system time; rounded up to whole seconds by the kernel
    wall_seconds    elapsed less pauses
    output_bytes    standard output and error together
    result_bytes    the encoded result
    """

    memory_bytes: int
    disk_bytes: int
    cpu_seconds: float
    wall_seconds: float
    output_bytes: int = 1_000_000
    result_bytes: int = 4 * 1024 * 1024


class TaskSpec(Struct, frozen=True, kw_only=True):
    """One task, ready to run. ``folder`` exists and is empty or holds the task's checkpoint."""

    task_id: int
    experiment: str
    source_path: str
    sha256: str
    environment: Environment
    parameters: dict[str, Any]
    seed: int
    budget_seconds: float
    device: str = "cpu"
    driver: DriverAccess | None = None  # what its GPUs need; None on cores
    limits: TaskLimits
    folder: str


class TaskStarted(Struct, frozen=True, kw_only=True):
    """The task has a process of its own."""

    task_id: int
    pid: int


class TaskProgressed(Struct, frozen=True, kw_only=True):
    """How much is done, 0 to 1, in the experiment's own words."""

    task_id: int
    fraction: float


class TaskFinished(Struct, frozen=True, kw_only=True):
    """The task's process is gone. ``result`` is set, and has passed the gate, on success only.

    elapsed_seconds     monotonic, less pauses; the host's sleep does not count on Linux
    peak_memory_bytes   the largest resident set by wait4; a forked child's includes the pages
                        that it shares with the zygote
    """

    task_id: int
    outcome: Outcome
    result: Any = None
    message: str = ""
    elapsed_seconds: float = 0.0
    cpu_user_seconds: float = 0.0
    cpu_system_seconds: float = 0.0
    peak_memory_bytes: int = 0


TaskEvent = TaskStarted | TaskProgressed | TaskFinished
