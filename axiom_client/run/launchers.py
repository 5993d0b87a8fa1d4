"""The interface of what starts a task's process; ``run/system.py`` chooses among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from axiom_client.run.channel import ChildEnds
from axiom_client.run.zygote_messages import ZygoteMessage

OnMessage = Callable[[ZygoteMessage], None]


class Launcher(Protocol):
    """Starts processes of tasks and reports ``Started`` and ``Ended`` for each.

    The commands to a task do nothing if it has ended.
    """

    tasks: set[int]

    def start(self, task_id: int, ends: ChildEnds) -> None:
        """Start the task's process with these ends; the caller closes its own copies."""

    def pause(self, task_id: int) -> None:
        """Let the task's process stand still."""

    def resume(self, task_id: int) -> None:
        """Let the task's process go on."""

    def ask_to_stop(self, task_id: int) -> None:
        """Ask the task to end, so that it can write a checkpoint; it goes on if it was paused."""

    def kill(self, task_id: int) -> None:
        """End the task's process at once."""
