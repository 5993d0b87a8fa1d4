"""What a task must not be able to do on any system, tried by means that every system has.

Each trial would succeed in a process that is not confined: the file exists, something listens at
the port, the interpreter can be started. So every refusal comes from the sandbox.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from msgspec import Struct

Answer = tuple[str, bool, str]  # what was tried, whether the sandbox refused it, the reason given
_CONNECT_SECONDS = 5.0  # a firewall may let an attempt wait instead of refusing it
#: By which a sandbox refuses; that of a network may also let an attempt fail without a word.
_REFUSALS = (errno.EPERM, errno.EACCES)
_NETWORK_REFUSALS = (*_REFUSALS, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ENETUNREACH)


class Outside(Struct, frozen=True, kw_only=True):
    """What exists outside of the sandbox: a file, a TCP port of this host, the agent's process."""

    file: str
    port: int
    agent: int


def common_trials(outside: Outside) -> list[Answer]:
    """Try everything; for use inside the sandbox."""
    return [
        refused("files outside cannot be read", lambda: Path(outside.file).read_bytes()),
        refused("files outside cannot be written", lambda: open(outside.file, "a").close()),
        refused("files outside cannot be deleted", lambda: os.unlink(outside.file)),
        refused("no network: TCP", lambda: _connect(outside.port), _NETWORK_REFUSALS),
        refused("no network: listening", _listen),
        refused("no new processes", _start_a_process),
        refused("the agent cannot be ended", lambda: psutil.Process(outside.agent).terminate()),
        _own_folder(),
    ]


def refused(name: str, step: Callable[[], object], refusals: Sequence[int] = _REFUSALS) -> Answer:
    """Whether the sandbox refuses this step."""
    try:
        step()
    except TimeoutError as error:
        return name, errno.ETIMEDOUT in refusals, str(error)
    except OSError as error:
        return name, error.errno in refusals, str(error)
    except psutil.AccessDenied as error:
        return name, True, str(error)
    return name, False, "it was allowed"


def _connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), _CONNECT_SECONDS).close()


def _listen() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()


def _start_a_process() -> None:
    subprocess.run([sys.executable, "-P", "-s", "-c", ""], check=False, stdin=subprocess.DEVNULL)


def _own_folder() -> Answer:
    name = "its own folder can be used"
    try:
        with open("own.txt", "w+") as file:
            file.write("mine")
        os.replace("own.txt", "other.txt")
        os.unlink("other.txt")
    except OSError as error:
        return name, False, str(error)
    return name, True, "written, renamed, deleted"
