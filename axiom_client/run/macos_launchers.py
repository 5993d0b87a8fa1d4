"""How tasks are started on macOS: in an interpreter of their own that confines itself."""

from __future__ import annotations

import sys
from functools import cached_property

assert sys.platform != "win32"

from axiom_client.decide.task_run import Environment
from axiom_client.run.cold_launchers import ColdLaunchers
from axiom_client.run.cold_process import ColdProcess
from axiom_client.run.keeper import Keeper
from axiom_client.run.launchers import Launcher
from axiom_client.run.posix_standby import StandbyProcess
from axiom_client.run.spec import PlacedTask
from axiom_client.run.zygote_messages import Ended, Started, ZygoteMessage
from axiom_client.sandbox.policy import Policy


class Launchers(ColdLaunchers[StandbyProcess]):
    """A launcher for each task. See ``linux_launchers.Launchers``; here no process is shared.

    A forked child could not use Apple's frameworks, which allow only exec after fork.
    """

    module = "axiom_client.run.macos_cold"

    @cached_property
    def _keeper(self) -> Keeper:
        return Keeper()

    @cached_property
    def _pids(self) -> dict[int, int]:
        """Process ids by task."""
        return {}

    def for_task(self, spec: PlacedTask, policy: Policy) -> Launcher:
        """What starts this task's process."""
        variables = {} if policy.driver is not None else self._hide_gpus
        ready = self._ready_process(spec, policy)
        return ready or ColdProcess(self._watched, variables, self.module)

    def close(self) -> None:
        """End what waits, and the keeper. The tasks have ended already."""
        super().close()
        self._keeper.close()

    def _start_standby(self, environment: Environment) -> StandbyProcess:
        process = StandbyProcess(
            environment, self._watched, self._standby_moved, self._hide_gpus, self.module,
            background=self._background,
        )  # fmt: skip
        self._keeper.add(process.pid)
        return process

    def _standby_moved(self, process: StandbyProcess) -> None:
        if process.gone:
            self._keeper.remove(process.pid)
        self._standby_changed(process)

    def _watched(self, message: ZygoteMessage) -> None:
        if isinstance(message, Started):
            self._pids[message.task_id] = message.pid
            self._keeper.add(message.pid)
        elif isinstance(message, Ended) and message.task_id in self._pids:
            self._keeper.remove(self._pids.pop(message.task_id))
        self._told(message)
