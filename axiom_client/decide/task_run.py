"""One run of a task: what to run under which limits, and how the run ended."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from axiom_protocol.messages import Outcome

Environment = Literal["numpy", "torch"]


class TaskLimits(Struct, frozen=True, kw_only=True):
    """How much a task may use. A task that exceeds a limit is ended; its report names the limit.

    memory_bytes    beyond what the interpreter and the libraries use themselves
    disk_bytes      for the task's whole folder, and for any one file
    cpu_seconds     user and system time; rounded up to whole seconds by the kernel
    wall_seconds    elapsed time without pauses
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
    """What to run: an experiment with its parameters and seed, and the limits of the run."""

    task_id: int
    experiment: str
    source_path: str
    sha256: str
    environment: Environment
    parameters: dict[str, Any]
    seed: int
    budget_seconds: float
    limits: TaskLimits


class TaskFinished(Struct, frozen=True, kw_only=True):
    """How a run ended. ``result`` is set on success only, and then has passed the result gate.

    elapsed_seconds     monotonic, without pauses; on Linux the host's sleep does not count
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

    @property
    def cpu_seconds(self) -> float:
        """User and system time together."""
        return self.cpu_user_seconds + self.cpu_system_seconds
