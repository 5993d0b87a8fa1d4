"""How tasks are started on macOS: each in a new interpreter that confines itself."""

from __future__ import annotations

import sys
from functools import cached_property

assert sys.platform != "win32"

from axiom_client.run.cold_launchers import ColdLaunchers
from axiom_client.run.cold_process import ColdProcess
from axiom_client.run.keeper import Keeper
from axiom_client.run.launchers import Launcher
from axiom_client.run.spec import PlacedTask
from axiom_client.run.zygote_messages import Ended, Started, ZygoteMessage
from axiom_client.sandbox.policy import Policy


class Launchers(ColdLaunchers):
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
        return ColdProcess(self._watched, variables, self.module)

    def close(self) -> None:
        """End the keeper. The tasks have ended already."""
        self._keeper.close()

    def _watched(self, message: ZygoteMessage) -> None:
        if isinstance(message, Started):
            self._pids[message.task_id] = message.pid
            self._keeper.add(message.pid)
        elif isinstance(message, Ended) and message.task_id in self._pids:
            self._keeper.remove(self._pids.pop(message.task_id))
        self._on_message(message)
