"""What a standby process does before it has a task, on Linux and macOS: import, then wait."""

from __future__ import annotations

import os
import socket
import sys
import traceback

import msgspec

assert sys.platform != "win32"

from axiom_client.run import libraries
from axiom_client.run.posix_child import receive_ends, use_ends
from axiom_client.run.zygote_messages import MESSAGE_BYTES_MAX, Broken, Ready, Received

_LOWEST_PRIORITY = 19


def wait_for_task(descriptor: int, environment: str, background: bool) -> None:
    """Load the libraries, and take the task's channel and output from this socket.

    Ends the process when the agent needs it no more, or when a library cannot be loaded. torch is
    imported but not used: on a Mac its first use may open the GPU, which a task on a core must not
    have.
    """
    if background:
        os.setpriority(os.PRIO_PROCESS, 0, _LOWEST_PRIORITY)
    control = socket.socket(fileno=descriptor)
    try:
        libraries.warm(environment, gpu=True)
    except Exception:  # noqa: BLE001  a library may raise anything
        _send(control, Broken(traceback.format_exc()[-MESSAGE_BYTES_MAX // 4 :]))
        os._exit(1)
    _send(control, Ready())
    ends = receive_ends(control)
    _send(control, Received())
    control.close()
    use_ends(*ends)


def _send(control: socket.socket, message: msgspec.Struct) -> None:
    try:
        control.sendall(msgspec.json.encode(message) + b"\n")
    except OSError:
        os._exit(0)  # the agent has ended, or ended this process
