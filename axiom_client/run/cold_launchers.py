"""What launchers share on systems where each task starts in a new interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from axiom_client.decide.task_run import Environment
from axiom_client.run.launchers import OnMessage
from axiom_client.sandbox.mode import Mode


class ColdLaunchers:
    """``linux_launchers.Launchers`` without zygotes; a subclass adds ``for_task``."""

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

    def prewarm(self, environment: Environment) -> None:
        """Nothing is loaded before its task."""

    def release_idle(self) -> None:
        """No process is kept without a task."""

    def zygote_pids(self) -> dict[str, int]:
        """Empty: there are no zygotes."""
        return {}

    def close(self) -> None:
        """No process is left when the tasks have ended."""
