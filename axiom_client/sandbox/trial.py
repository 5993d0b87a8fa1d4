"""A short-lived process that confines itself like a task and then tries what a task must not do.

``selftest`` starts it; it prints one line of JSON. Each trial makes the real system call.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable

import msgspec

assert sys.platform == "linux"

from axiom_client.sandbox import linux, process
from axiom_client.sandbox.errors import SandboxError
from axiom_client.sandbox.libc import raw
from axiom_client.sandbox.limits import MemoryGauge
from axiom_client.sandbox.policy import Policy

#: Errors by which the sandbox refuses. Others prove nothing: the attempt itself may be wrong.
_REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOMEM, errno.EFBIG)
_IN_A_NAMESPACE = (
    errno.ENOENT,
    errno.ESRCH,
    errno.EROFS,
)  # errors for what a namespace does not contain
_CAPABILITY_VERSION_3 = 0x2008_0522
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_FIOSETOWN, _SIOCGIFCONF = 0x8901, 0x8912


def main(parent: int, policy_json: str, outside: str, landlock: bool) -> None:
    """Confine this process, try everything, print [[name, enforced, reason], ...].

    ``outside`` is a file of this user that a task must not be able to open.
    """
    policy = msgspec.json.decode(policy_json, type=Policy)
    process.reset_signals()
    channel = os.dup2(1, 3)  # where a task has its channel
    try:
        linux.detach(parent)
        os.setsid()
        process.lower_session_priority()
        os.chdir(policy.folder)
        gauge = MemoryGauge()
        if landlock:
            linux.confine_paths(policy, gauge)
        else:
            linux.lower_priority_and_close_files(policy, gauge)
        linux.confine_calls(policy, gauge)
    except (SandboxError, OSError) as error:
        answer: list[tuple[str, bool, str]] = [("confinement", False, str(error))]
    else:
        refusals = _REFUSALS if landlock else _REFUSALS + _IN_A_NAMESPACE
        trials = _trials(parent, policy, outside)
        answer = [_works(policy), *(_refused(name, step, refusals) for name, step in trials)]
        answer += [_priority(), _capabilities()]
    os.write(channel, json.dumps(answer).encode())
    os._exit(0)


def _trials(parent: int, policy: Policy, outside: str) -> list[tuple[str, Callable[[], object]]]:
    driver_bytes = policy.driver.memory_bytes if policy.driver else 0
    too_much = policy.limits.memory_bytes + driver_bytes + (64 << 20)
    cpu_only: list[tuple[str, Callable[[], object]]] = [
        ("no second thread", lambda: threading.Thread(target=int).start()),
    ]
    return [
        *(cpu_only if policy.driver is None else _driver_trials()),
        ("files outside cannot be read", lambda: open(outside).read()),
        ("files outside cannot be written", lambda: open(outside, "a")),
        ("files outside cannot be changed", lambda: os.chmod(outside, 0o600)),
        ("other processes' environment cannot be read", lambda: _read_environment(parent)),
        ("no network: TCP", lambda: socket.create_connection(("127.0.0.1", 9), 1)),
        ("no network: UDP", lambda: socket.socket(type=socket.SOCK_DGRAM)),
        ("no local sockets", lambda: socket.socket(socket.AF_UNIX).connect("/run/axiom")),
        ("no new processes", _fork),
        ("no new programs", lambda: os.execv("/bin/true", ["true"])),
        ("no signals to others", lambda: os.kill(parent or -1, 0)),
        (
            "no tracing of others",
            lambda: _must(raw("process_vm_readv", parent, None, 0, None, 0, 0)),
        ),
        ("no higher priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, 0)),
        ("no namespaces", lambda: _must(raw("unshare", 0x1000_0000))),
        (
            "no more memory than allowed",
            lambda: mmap.mmap(-1, too_much, flags=_PRIVATE),
        ),
        ("no larger file than allowed", lambda: _big_file(policy.limits.file_bytes + 1)),
        ("no life after the agent's end", lambda: _must(raw("prctl", 1, 0, 0, 0, 0))),
    ]


def _driver_trials() -> list[tuple[str, Callable[[], object]]]:
    """What must stay forbidden although the driver needs additional rights."""
    return [
        ("no signals by ioctl", lambda: fcntl.ioctl(0, _FIOSETOWN, bytes(4))),
        ("no list of network addresses", lambda: fcntl.ioctl(0, _SIOCGIFCONF, bytes(16))),
        ("no higher priority of the session", lambda: open("/proc/self/autogroup", "w")),
        ("no connections to its socket", lambda: _listening().accept()),
    ]


def _listening() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.bind("\0axiom-trial")
    made.listen()
    made.setblocking(False)
    return made


def _refused(
    name: str, step: Callable[[], object], refusals: tuple[int, ...]
) -> tuple[str, bool, str]:
    try:
        step()
    except OSError as error:
        return name, error.errno in refusals, str(error)
    except (RuntimeError, MemoryError) as error:
        return name, True, str(error)
    return name, False, "it was allowed"


def _works(policy: Policy) -> tuple[str, bool, str]:
    """A task must be able to use its own folder."""
    try:
        with open(os.path.join(policy.folder, "own.txt"), "w+") as file:
            file.write("mine")
        signal.raise_signal(0)
        one, other = socket.socketpair()
        one.send(b"x"), other.recv(1)
    except OSError as error:
        return "its own folder can be used", False, str(error)
    return "its own folder can be used", True, "read, written, deleted"


def _read_environment(parent: int) -> None:
    try:
        os.close(os.open(f"/proc/{parent}/environ", os.O_RDONLY))
    except FileNotFoundError as error:
        if os.getppid() != parent:
            raise
        # systemd's ProtectProc=invisible refuses by hiding processes; this one is there.
        raise PermissionError(errno.EACCES, "/proc hides the process") from error


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _big_file(size: int) -> None:
    with open("big", "wb") as file:
        file.truncate(size)


def _must(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def _priority() -> tuple[str, bool, str]:
    idle = os.sched_getscheduler(0) == os.SCHED_IDLE
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    words = "SCHED_IDLE" if idle else f"nice {nice}"
    return "runs only on idle cores", idle or nice >= 19, words


def _capabilities() -> tuple[str, bool, str]:
    import ctypes

    data = ctypes.create_string_buffer(24)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    got = raw("capget", header, ctypes.addressof(data))
    return "holds no capability", got == 0 and data.raw == bytes(24), f"uid {os.getuid()}"
