"""The agent's side of a standby process on Windows. See ``standby``.

It is in its job object and in an AppContainer of its own from its first instruction. With a task it
gets the task's limits, the permission to use the task's folder, and handles of the task's pipes.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Mapping

import msgspec

from axiom_client.decide.task_run import Environment
from axiom_client.run.channel import ChildEnds
from axiom_client.run.launchers import OnMessage
from axiom_client.run.windows_task_process import EXIT_CHECK_SECONDS, WindowsProcess, usage_of
from axiom_client.run.zygote_messages import Broken, Ready, StandbyMessage
from axiom_client.sandbox import launch
from axiom_client.sandbox import windows_calls as calls
from axiom_client.sandbox.errors import SandboxError
from axiom_client.sandbox.policy import Limits, Policy
from axiom_client.sandbox.roots import read_only_roots
from axiom_client.sandbox.windows import container_attributes
from axiom_client.sandbox.windows_process import ConfinedProcess

_LOAD_CPU_SECONDS = 120.0  # more than torch takes on the slowest host
_PROBLEM_CHARACTERS = 2000
_MESSAGES: msgspec.json.Decoder[StandbyMessage] = msgspec.json.Decoder(StandbyMessage)


class WindowsStandbyProcess(WindowsProcess):
    """An interpreter with an environment's libraries, for one task that is not known yet.

    on_change   called when it is ready, and when it has ended without a task
    """

    def __init__(
        self,
        environment: Environment,
        on_message: OnMessage,
        on_change: Callable[[WindowsStandbyProcess], None],
        variables: Mapping[str, str],
        *,
        background: bool,
    ) -> None:
        super().__init__(on_message, variables, _waiting_policy(background))
        self.environment = environment
        self.ready = self.gone = False
        self.problem = ""
        self._on_change = on_change
        self._replied = b""
        self._own: list[int] = []  # handles of the agent's ends of its pipes
        try:
            self._waiting = self._start_waiting()
        except BaseException:
            self._close_pipes()
            raise
        self._process, self.pid = self._waiting, self._waiting.pid
        self._loop.call_later(EXIT_CHECK_SECONDS, self._check_waiting)

    def use(self, policy: Policy) -> None:
        """The policy of the task that it is about to get."""
        self._policy = policy

    def start(self, task_id: int, ends: ChildEnds) -> None:
        """See Launcher. If the process has just ended, the task gets a new interpreter."""
        try:
            self._hand_over(ends)
        except (OSError, SandboxError):
            self._waiting.kill_and_close()
            self._used = calls.JobUsage()
            super().start(task_id, ends)
            return
        finally:
            self._close_pipes()
        self._begin(task_id, self._waiting)
        self._loop.call_later(EXIT_CHECK_SECONDS, self._check, task_id)

    def end(self) -> None:
        """End it; it has no task."""
        self.kill(0)

    def _start_waiting(self) -> ConfinedProcess:
        commands, to_process = calls.create_pipe()
        self._own = [to_process]
        inner = [commands]
        try:
            from_process, replies = calls.create_pipe()
            self._own.append(from_process)
            inner.append(replies)
            return self._confined((commands, replies, replies))
        except SandboxError as error:
            raise OSError(str(error)) from None
        finally:
            for handle in inner:
                calls.close_handle(handle)

    def _confined(self, handles: tuple[int, int, int]) -> ConfinedProcess:
        """Its folder is Python's own, because no task's may be used yet."""
        name = f"axiom-client-standby-{secrets.token_hex(16)}"
        attributes = msgspec.structs.replace(
            container_attributes(self._policy, name), read_write=()
        )
        return ConfinedProcess(
            launch.command(self.module, self.environment),
            launch.environment(self._variables),
            sys.base_prefix,
            handles,
            self._job(),
            self._container(attributes),
        )

    def _hand_over(self, ends: ChildEnds) -> None:
        process, used = self._waiting, usage_of(self._waiting)
        process.open_folders((self._policy.folder, *self._policy.folders))
        limits = msgspec.structs.replace(
            self._policy.limits, cpu_seconds=self._policy.limits.cpu_seconds + used.user_seconds
        )
        process.limit(self._job_limits(msgspec.structs.replace(self._policy, limits=limits)))
        handles = process.receive((ends.assignment, ends.channel, ends.output))
        calls.write_pipe(self._own[0], msgspec.json.encode(handles) + b"\n")
        self._used = used

    def _check_waiting(self) -> None:
        """Look whether it is ready, or has ended. With a task, ``_check`` does the latter."""
        if self.tasks or self._process is not self._waiting:
            return
        self._read_replies()
        if self._waiting.exit_code() is None:
            self._loop.call_later(EXIT_CHECK_SECONDS, self._check_waiting)
            return
        self._close_pipes()
        self._waiting.close()
        self.gone, self.ready = True, False
        self._on_change(self)

    def _read_replies(self) -> None:
        size = calls.bytes_waiting(self._own[1])
        if not size:
            return
        self._replied += calls.read_pipe(self._own[1], size)
        *lines, self._replied = self._replied.split(b"\n")
        for line in lines:
            self._handle(line)

    def _handle(self, line: bytes) -> None:
        """One line; what is no message is what Python prints when it cannot start."""
        try:
            message = _MESSAGES.decode(line)
        except msgspec.MsgspecError:
            text = f"{self.problem}\n{line.decode(errors='replace')}".strip()
            self.problem = text[-_PROBLEM_CHARACTERS:]
            return
        if isinstance(message, Broken):
            self.problem = message.message
        elif isinstance(message, Ready):
            self.ready = True
            self._on_change(self)

    def _close_pipes(self) -> None:
        for handle in self._own:
            calls.close_handle(handle)
        self._own = []


def _waiting_policy(background: bool) -> Policy:
    """What it may use until it has a task: memory for the libraries alone, and no folder."""
    return Policy(
        folder="",
        read_only=read_only_roots(),
        limits=Limits(memory_bytes=0, file_bytes=0, cpu_seconds=_LOAD_CPU_SECONDS),
        background=background,
    )
