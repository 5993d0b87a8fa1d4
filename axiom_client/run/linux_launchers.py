"""How tasks are started on Linux: forked from a zygote where possible, else a new interpreter."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

assert sys.platform == "linux"

from axiom_client.decide.task_run import Environment
from axiom_client.run.bubblewrapped_process import BubblewrappedProcess
from axiom_client.run.cold_process import ColdProcess
from axiom_client.run.launchers import Launcher, OnMessage
from axiom_client.run.spec import PlacedTask
from axiom_client.run.zygote_launcher import Zygote
from axiom_client.sandbox.mode import Mode
from axiom_client.sandbox.policy import Policy


class Launchers:
    """The zygotes of this pool, and a launcher for each task.

    on_parent_gone   called with the tasks of a zygote that has ended, and why it was broken
    warm             fork from zygotes where a task allows it
    hide_gpus        environment variables that hide every GPU from a process
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
        self._mode, self._on_message, self._on_parent_gone = mode, on_message, on_parent_gone
        self._warm, self._background, self._hide_gpus = warm, background, hide_gpus
        self._zygotes: dict[tuple[Environment, bool], Zygote] = {}
        self._closing: set[Zygote] = set()

    def for_task(self, spec: PlacedTask, policy: Policy) -> Launcher:
        """What starts this task's process."""
        gpu = policy.driver is not None
        variables = {} if gpu else self._hide_gpus  # a GPU task's variables come with its policy
        if self._mode.mode == "bubblewrap":
            return BubblewrappedProcess(self._on_message, variables, self._mode.helper, policy)
        if self._warm and (spec.environment == "torch" or not gpu):
            return self._zygote(spec.environment, gpu)
        return ColdProcess(self._on_message, variables)

    def prewarm(self, environment: Environment) -> None:
        """Start the zygote of an environment before its first task."""
        if self._warm and self._mode.mode == "kernel":
            self._zygote(environment, gpu=False)

    def allow_standby(self, processes: int) -> None:
        """Nothing: zygotes fork every task, and none waits with libraries of its own."""

    def release_idle(self) -> None:
        """End every zygote that has no task, to free its memory."""
        for zygote in list(self._zygotes.values()):
            if not zygote.tasks:
                self._release(zygote)

    def zygote_pids(self) -> dict[str, int]:
        """Process ids of zygotes by environment; names of those for GPUs end in "+gpu"."""
        names = {key: f"{key[0]}+gpu" if key[1] else key[0] for key in sorted(self._zygotes)}
        return {name: self._zygotes[key].pid for key, name in names.items()}

    def close(self) -> None:
        """End every zygote."""
        for zygote in list(self._zygotes.values()):
            self._release(zygote)
            zygote.end()

    @property
    def closed(self) -> bool:
        """Whether no zygote that was released still runs."""
        return not self._closing

    def _zygote(self, environment: Environment, gpu: bool) -> Zygote:
        if (environment, gpu) not in self._zygotes:
            self._zygotes[environment, gpu] = Zygote(
                environment,
                self._on_message,
                self._gone,
                gpu=gpu,
                variables={} if gpu else self._hide_gpus,
                background=self._background,
            )
        return self._zygotes[environment, gpu]

    def _gone(self, zygote: Zygote) -> None:
        self._closing.discard(zygote)
        self._forget(zygote)
        text = f"the environment {zygote.environment} cannot be loaded:\n{zygote.broken}"
        self._on_parent_gone(zygote.tasks, text if zygote.broken else "")

    def _release(self, zygote: Zygote) -> None:
        self._forget(zygote)
        self._closing.add(zygote)
        zygote.close()

    def _forget(self, zygote: Zygote) -> None:
        key = (zygote.environment, zygote.gpu)
        if self._zygotes.get(key) is zygote:
            del self._zygotes[key]
