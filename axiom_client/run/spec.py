"""The tasks that the pool runs, and the events that it emits."""

from __future__ import annotations

from msgspec import Struct

from axiom_client.decide.task_run import TaskFinished, TaskSpec
from axiom_client.sandbox.policy import DriverAccess


class PlacedTask(TaskSpec, frozen=True, kw_only=True):
    """A task with its folder and device here. ``folder`` is empty or contains its checkpoint.

    device   a torch device such as "cpu" or "cuda:0"
    driver   access that the driver of its GPUs needs; None on CPU cores
    cores    the cores that it stays on: those of one NUMA node; empty: any
    slow     the host's efficiency cores; empty where all cores are alike, or it is not known
    """

    folder: str
    device: str = "cpu"
    driver: DriverAccess | None = None
    cores: tuple[int, ...] = ()
    slow: frozenset[int] = frozenset()

    @property
    def folders(self) -> list[str]:
        """The folders of all tasks that share the process."""
        return [self.folder, *(member.folder for member in self.others)]


class TaskStarted(Struct, frozen=True, kw_only=True):
    """The task has a process."""

    task_id: int
    pid: int


class TaskProgressed(Struct, frozen=True, kw_only=True):
    """How much is done, 0 to 1, as the experiment reports it."""

    task_id: int
    fraction: float


TaskEvent = TaskStarted | TaskProgressed | TaskFinished
