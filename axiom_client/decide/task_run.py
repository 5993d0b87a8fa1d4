"""One run of a task: what to run under which limits, and how the run ended."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from axiom_protocol.manifest import Resources
from axiom_protocol.messages import Outcome

Environment = Literal["numpy", "torch"]
# A task counts as hung after this many times its expected duration: some hosts are that slow.
WALL_MARGIN = 10.0
WALL_FLOOR_SECONDS = 300.0
CPU_MARGIN = 1.5  # CPU seconds a core allowed in each second of the wall-clock limit


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


def limits_for(needs: Resources, expected_seconds: float) -> TaskLimits:
    """The limits of a run that declares these resources and is expected to take so long."""
    wall_seconds = max(WALL_FLOOR_SECONDS, WALL_MARGIN * expected_seconds)
    return TaskLimits(
        memory_bytes=needs.memory_bytes,
        disk_bytes=needs.disk_bytes,
        cpu_seconds=CPU_MARGIN * wall_seconds * needs.cpu_cores,
        wall_seconds=wall_seconds,
    )


class Member(Struct, frozen=True, kw_only=True):
    """A further task of a cohort, which shares the process of the first; ``folder`` is its own."""

    task_id: int
    seed: int
    folder: str = ""


class TaskSpec(Struct, frozen=True, kw_only=True):
    """What to run: an experiment with its parameters and seed, and the limits of the run.

    others  the further tasks of a cohort: the same experiment and parameters with other seeds
    """

    task_id: int
    experiment: str
    source_path: str
    sha256: str
    environment: Environment
    parameters: dict[str, Any]
    seed: int
    budget_seconds: float
    limits: TaskLimits
    others: list[Member] = []

    @property
    def task_ids(self) -> list[int]:
        """The numbers of all tasks that share the process."""
        return [self.task_id, *(member.task_id for member in self.others)]


class TaskFinished(Struct, frozen=True, kw_only=True):
    """How a run ended. ``result`` is set on success only, and then has passed the result gate.

    elapsed_seconds     monotonic, without pauses; on Linux the host's sleep does not count
    peak_memory_bytes   the largest resident set by wait4; a forked child's includes the pages
                        that it shares with the zygote
    core_kind           "efficiency" for a task that ran mostly on the slower cores of a host that
                        has two kinds; else empty
    shared              the process of a cohort ended badly, so it is not known whether this task
                        was the cause
    """

    task_id: int
    outcome: Outcome
    result: Any = None
    message: str = ""
    elapsed_seconds: float = 0.0
    cpu_user_seconds: float = 0.0
    cpu_system_seconds: float = 0.0
    peak_memory_bytes: int = 0
    shared: bool = False
    core_kind: str = ""

    @property
    def cpu_seconds(self) -> float:
        """User and system time together."""
        return self.cpu_user_seconds + self.cpu_system_seconds
