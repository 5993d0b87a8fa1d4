"""Starts a task's process as a new interpreter inside bubblewrap."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping

assert sys.platform == "linux"

from axiom_client.run import exits
from axiom_client.run.channel import ChildEnds
from axiom_client.run.cold_process import ColdProcess
from axiom_client.run.launchers import OnMessage
from axiom_client.sandbox import bubblewrap, launch
from axiom_client.sandbox.policy import Policy


class BubblewrappedProcess(ColdProcess):
    """A cold child inside bubblewrap, which is its parent process."""

    def __init__(
        self, on_message: OnMessage, variables: Mapping[str, str], helper: str, policy: Policy
    ) -> None:
        super().__init__(on_message, variables)
        self._helper, self._policy = helper, policy
        self._info, self._info_inner = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._info_text = b""

    def start(self, task_id: int, ends: ChildEnds) -> None:
        """See Launcher."""
        inner = launch.command(self._module, 0, ends.channel)  # no parent inside the namespace
        command = bubblewrap.wrap(self._helper, self._policy, inner, self._info_inner)
        try:
            self._exec(task_id, command, ends.channel, ends.output, self._info_inner)
        finally:
            os.close(self._info_inner)

    def _send_signal(self, number: int) -> None:
        """Signal the task itself, or bubblewrap while it has not started the task yet."""
        assert self._process is not None
        with contextlib.suppress(BlockingIOError):
            self._info_text += os.read(self._info, 4096)
        try:
            os.kill(bubblewrap.inner_pid(self._info_text) or self._process.pid, number)
        except ProcessLookupError:
            return  # the task has ended, and bubblewrap will end next

    def _ended(self, task_id: int, status: int, usage: exits.Usage) -> None:
        os.close(self._info)
        super()._ended(task_id, status, usage)

    def _status(self, status: int) -> int:
        """Bubblewrap exits with 128 + the signal that ended the task, as shells do."""
        code = status >> 8
        return code - 128 if status & 0x7F == 0 and code > 128 else status
