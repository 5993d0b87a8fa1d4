"""How tasks are started on Windows: each in an interpreter inside a job and an AppContainer."""

from __future__ import annotations

from axiom_client.decide.task_run import Environment
from axiom_client.run.cold_launchers import ColdLaunchers
from axiom_client.run.launchers import Launcher
from axiom_client.run.spec import PlacedTask
from axiom_client.run.windows_standby import WindowsStandbyProcess
from axiom_client.run.windows_task_process import WindowsProcess
from axiom_client.sandbox.policy import Policy


def allow_descriptors() -> None:
    """Windows sets no limit that matters: a process may have 16 million handles."""


class Launchers(ColdLaunchers[WindowsStandbyProcess]):
    """A launcher for each task. See ``linux_launchers.Launchers``; here no process is shared."""

    def for_task(self, spec: PlacedTask, policy: Policy) -> Launcher:
        """What starts this task's process."""
        if (ready := self._ready_process(spec, policy)) is not None:
            ready.use(policy)
            return ready
        variables = {} if policy.driver is not None else self._hide_gpus
        return WindowsProcess(self._told, variables, policy)

    def _start_standby(self, environment: Environment) -> WindowsStandbyProcess:
        return WindowsStandbyProcess(
            environment, self._told, self._standby_changed, self._hide_gpus,
            background=self._background,
        )  # fmt: skip
