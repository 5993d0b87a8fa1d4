"""What a standby process does before it has a task, on Windows: import, then wait.

Its input is a pipe from the agent, its outputs one to the agent. The agent writes the numbers of
three handles, which it has given this process: the task's assignment, channel and output.
"""

from __future__ import annotations

import os
import sys
import traceback

import msgspec

assert sys.platform == "win32"

import msvcrt

from axiom_client.run import libraries
from axiom_client.run.zygote_messages import MESSAGE_BYTES_MAX, Broken, Ready

_LINE_BYTES_MAX = 200


def wait_for_task(environment: str) -> None:
    """Load the libraries, and make the task's pipes the input and the outputs of this process.

    Ends the process when the agent needs it no more, or when a library cannot be loaded. torch is
    imported but not used: its first use may open a GPU, which a task on a core must not have.
    """
    replies = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)  # what libraries print at their import is no message
    try:
        libraries.warm(environment, gpu=True)
    except Exception:  # noqa: BLE001  a library may raise anything
        _send(replies, Broken(traceback.format_exc()[-MESSAGE_BYTES_MAX // 4 :]))
        os._exit(1)
    _send(replies, Ready())
    assignment, channel, output = (_opened(handle) for handle in _handles())
    os.close(replies)
    os.dup2(assignment, 0)
    os.dup2(channel, 1)
    os.dup2(output, 2)
    for descriptor in (null, assignment, channel, output):
        os.close(descriptor)


def _send(replies: int, message: msgspec.Struct) -> None:
    try:
        os.write(replies, msgspec.json.encode(message) + b"\n")
    except OSError:
        os._exit(0)  # the agent has ended


def _handles() -> list[int]:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, _LINE_BYTES_MAX)
        if not part:
            os._exit(0)  # the agent does not need this process
        line += part
    return msgspec.json.decode(line, type=list[int])


def _opened(handle: int) -> int:
    return msvcrt.open_osfhandle(handle, os.O_BINARY)
