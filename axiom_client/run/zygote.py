"""The zygote: one process per environment, with its libraries loaded, that forks a child per task.

It is started with a clean environment and holds no secret and no file of the agent except its
socket. The message ``start`` carries the two descriptors of a task (its channel and its output),
``signal`` names a task and the signals to send, ``ended`` carries the result of wait4. The zygote
never reads a task's script. It has one thread, asserted before every fork: with a second one a
child could hang. It ends with the agent, and its children end with it.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import sys
import time
import traceback
from functools import partial

import msgspec

assert sys.platform == "linux"

from axiom_client.run import child, huge_pages, libraries, linux_child
from axiom_client.run.channel import Assignment, encode_assignment
from axiom_client.run.posix_child import (
    ASSIGNMENTS,
    PosixChild,
    receive_ends,
    send_ends,
    use_ends,
)
from axiom_client.run.zygote_messages import (
    MESSAGE_BYTES_MAX,
    Broken,
    Ended,
    Ready,
    Signal,
    Start,
    Started,
    ZygoteMessage,
)
from axiom_client.sandbox import landlock, libc, linux, process, seccomp
from axiom_client.sandbox.errors import SandboxError
from axiom_client.sandbox.policy import Limits, Policy
from axiom_client.sandbox.roots import read_only_roots

SPARES = 2  # children forked in advance: two tasks may end at once; each takes 3 MiB
_WARM_UP_RUNS = 10  # CPython specializes code until its eighth run, which writes to memory
_DESCRIPTORS = 2  # a task's channel and its output
_COMMANDS: msgspec.json.Decoder[Start | Signal] = msgspec.json.Decoder(Start | Signal)


class _Children:
    """The forked children: one for each task, and a few spare ones."""

    def __init__(self, agent: socket.socket, program: seccomp.Template) -> None:
        self._agent = agent
        self._own_pid = os.getpid()
        self._program = program
        self._poller = select.epoll()
        self._poller.register(agent.fileno(), select.EPOLLIN)
        self._pids: dict[int, int] = {}  # task -> pid
        self._tasks: dict[int, int] = {}  # pidfd -> task
        self._spares: list[tuple[int, socket.socket]] = []

    def serve(self) -> None:
        """Handle commands and ended children until the agent ends; fork spares in between."""
        while True:
            ready = self._poller.poll(0)
            if not ready and len(self._spares) < SPARES:
                self._spares.append(self._fork())
                continue
            for descriptor, _ in ready or self._poller.poll():
                if descriptor != self._agent.fileno():
                    self._reap(descriptor)
                elif not self._handle_command():
                    return

    def _handle_command(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._agent, MESSAGE_BYTES_MAX, _DESCRIPTORS)
        if not data:
            return False
        command = _COMMANDS.decode(data)
        if isinstance(command, Start):
            self._start(command.task_id, descriptors)
        elif (pid := self._pids.get(command.task_id)) is not None:
            for number in command.numbers:  # not reaped yet, so the pid is still this child's
                os.kill(pid, number)
        return True

    def _start(self, task_id: int, descriptors: list[int]) -> None:
        pid, control = self._spares.pop(0) if self._spares else self._fork()
        at = time.monotonic()
        try:
            send_ends(control, descriptors)
        except BrokenPipeError:
            pass  # the spare child has ended; that is reported as for any other
        finally:
            control.close()
            for descriptor in descriptors:
                os.close(descriptor)
        watch = os.pidfd_open(pid)
        self._pids[task_id] = pid
        self._tasks[watch] = task_id
        self._poller.register(watch, select.EPOLLIN)
        self._send(Started(task_id, pid, at))

    def _reap(self, watch: int) -> None:
        task_id = self._tasks.pop(watch)
        pid = self._pids.pop(task_id)
        _, status, usage = os.wait4(pid, 0)
        at = time.monotonic()
        self._poller.unregister(watch)
        os.close(watch)
        peak = usage.ru_maxrss * 1024  # Linux gives KiB
        self._send(Ended(task_id, status, at, usage.ru_utime, usage.ru_stime, peak))

    def _fork(self) -> tuple[int, socket.socket]:
        assert len(os.listdir("/proc/self/task")) == 1, "a zygote must have one thread to fork"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        pid = libc.fork()
        if pid:
            theirs.close()
            return pid, ours
        try:
            self._run_child(ours, theirs)
        finally:
            os._exit(3)  # after any error: a child must never continue as a second zygote

    def _run_child(self, ours: socket.socket, theirs: socket.socket) -> None:
        ours.close()
        self._poller.close()
        setup_error = ""
        try:
            linux.detach(self._own_pid)
        except (SandboxError, OSError) as error:
            setup_error = str(error)  # reported on the task's channel, once there is one
        self._agent.close()
        ends = receive_ends(theirs)
        os.close(theirs.detach())
        use_ends(*ends)
        confine = partial(linux_child.confine_forked, program=self._program)
        child.run_assigned(PosixChild(confine), setup_error=setup_error)

    def _send(self, message: ZygoteMessage) -> None:
        self._agent.send(msgspec.json.encode(message))


def _warm_up() -> seccomp.Template:
    """Run a child's steps in the zygote, except those that confine it, so that children share the
    memory pages that these write to. Returns the seccomp program of a task without a GPU."""
    limits = Limits(memory_bytes=0, file_bytes=0, cpu_seconds=0)
    policy = Policy(folder="", read_only=read_only_roots(), limits=limits)
    source = "def run(task):\n    return {'valid': 1}\n"
    written = encode_assignment(
        Assignment(
            experiment="rehearsal", environment="numpy", parameters={}, seed=0, budget_seconds=1.0,
            device="cpu", result_bytes=100, policy=policy, source_bytes=len(source),
        ),
        b"",
    )  # fmt: skip
    for _ in range(_WARM_UP_RUNS):
        assignment = ASSIGNMENTS.decode(written)
        child.seed_libraries(assignment.seed)
        child.run_alone(PosixChild(linux_child.confine_cold), assignment, source)
    if (abi := landlock.abi_version()) >= 1:
        os.close(
            landlock.prepare(abi, policy)
        )  # children reuse the descriptors of the libraries' folders
    return seccomp.template(seccomp.build(policy))


def main(environment: str, gpu: bool, parent: int, descriptor: int, background: bool) -> None:
    """Load the libraries, report readiness, serve the agent at the other end of ``descriptor``.

    gpu         its children use GPUs, so torch must not initialize CUDA here
    background  run it and its children at the lowest priority
    """
    process.die_with_parent(parent)
    os.setsid()
    process.adopt_orphans()
    process.reset_signals()  # its children inherit them
    agent = socket.socket(fileno=descriptor)
    agent.set_inheritable(False)
    try:
        libraries.warm(environment, gpu=gpu)
        program = _warm_up()
    except Exception:
        agent.send(msgspec.json.encode(Broken(traceback.format_exc()[-MESSAGE_BYTES_MAX // 4 :])))
        raise
    gc.collect()
    gc.disable()  # children enable it; frozen objects are never visited, so their pages stay shared
    gc.freeze()
    huge_pages.collapse()
    if background:
        process.lower_session_priority()
    agent.send(msgspec.json.encode(Ready()))
    try:
        _Children(agent, program).serve()
    except (BrokenPipeError, ConnectionResetError):
        return  # the agent ended while a message was sent
