"""How tasks are started on macOS: each in a new interpreter that confines itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

assert sys.platform != "win32"

from axiom_client.decide.task_run import Environment
from axiom_client.run.cold_process import ColdProcess
from axiom_client.run.keeper import Keeper
from axiom_client.run.launchers import Launcher, OnMessage
from axiom_client.run.spec import PlacedTask
from axiom_client.run.zygote_messages import Ended, Started, ZygoteMessage
from axiom_client.sandbox.mode import Mode
from axiom_client.sandbox.policy import Policy


class Launchers:
    """A launcher for each task. See ``linux_launchers.Launchers``; here no process is shared.

    A forked child could not use Apple's frameworks, which allow only exec after fork.
    """

    module = "axiom_client.run.macos_cold"
    closed = True

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
        self._on_message, self._hide_gpus = on_message, hide_gpus
        self._keeper = Keeper()
        self._pids: dict[int, int] = {}  # by task

    def for_task(self, spec: PlacedTask, policy: Policy) -> Launcher:
        """What starts this task's process."""
        variables = {} if policy.driver is not None else self._hide_gpus
        return ColdProcess(self._watched, variables, self.module)

    def prewarm(self, environment: Environment) -> None:
        """Nothing is loaded before its task."""

    def release_idle(self) -> None:
        """No process is kept without a task."""

    def zygote_pids(self) -> dict[str, int]:
        """There are none."""
        return {}

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
