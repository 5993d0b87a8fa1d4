"""What launchers share on systems without fork: a new interpreter for each task, or a standby
process that has loaded the libraries ahead."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Generic

from axiom_client.decide.task_run import Environment
from axiom_client.run.launchers import OnMessage
from axiom_client.run.spec import PlacedTask
from axiom_client.run.standby import StandbyProcesses, StandbyT
from axiom_client.run.zygote_messages import Ended, Started, ZygoteMessage
from axiom_client.sandbox.mode import Mode
from axiom_client.sandbox.policy import Policy


class ColdLaunchers(ABC, Generic[StandbyT]):
    """``linux_launchers.Launchers`` without zygotes; a subclass adds ``for_task``.

    warm   load libraries ahead of tasks
    """

    def __init__(
        self,
        mode: Mode,
        on_message: OnMessage,
        on_parent_gone: Callable[[set[int], str], None],
        *,
        warm: bool,
        background: bool,
        hide_gpus: Mapping[str, str],
    ) -> None:
        self._on_message, self._on_gone = on_message, on_parent_gone
        self._warm, self._background, self._hide_gpus = warm, background, hide_gpus

    @cached_property
    def _standby(self) -> StandbyProcesses[StandbyT]:
        return StandbyProcesses(self._start_standby)

    @abstractmethod
    def _start_standby(self, environment: Environment) -> StandbyT:
        """Start a process that loads these libraries. Raises OSError."""

    def _ready_process(self, spec: PlacedTask, policy: Policy) -> StandbyT | None:
        """A standby process for this task. A GPU's task has none: it is started rarely, and its
        driver must not be used by a process that waits."""
        if not self._warm or policy.driver is not None:
            return None
        return self._standby.take(spec.environment, spec.task_id)

    def _standby_changed(self, process: StandbyT) -> None:
        self._standby.changed(process)
        if process.gone:
            self._on_gone(set(), "")  # the pool may wait for it to end

    def _told(self, message: ZygoteMessage) -> None:
        """Pass on what a process says of its task."""
        self._on_message(message)
        if isinstance(message, Started):
            self._standby.task_started(message.task_id)
        elif isinstance(message, Ended):
            self._standby.task_ended(message.task_id)

    def prewarm(self, environment: Environment) -> None:
        """Load an environment's libraries before its first task, if ``allow_standby`` allows it."""
        if self._warm:
            self._standby.want(environment)

    def allow_standby(self, processes: int) -> None:
        """Keep at most so many processes that wait with loaded libraries."""
        if self._warm:
            self._standby.allow(processes)

    def release_idle(self) -> None:
        """End every process that waits."""
        self._standby.release()

    def standby_pids(self) -> dict[str, list[int]]:
        """Process ids of the processes that wait, by environment."""
        return self._standby.pids()

    def zygote_pids(self) -> dict[str, int]:
        """Empty: there are no zygotes."""
        return {}

    def close(self) -> None:
        """End every process that waits. The tasks have ended already."""
        self._standby.close()

    @property
    def closed(self) -> bool:
        """Whether every process that waited has ended."""
        return self._standby.closed
