"""The entry point of a cold child: a new interpreter for one task, confined before it imports any
library. Used where no zygote can be: inside bubblewrap, and by ``axiom-client try``."""

from __future__ import annotations

import os
import sys

assert sys.platform == "linux"

from axiom_client.run import child, linux_child
from axiom_client.run.channel import CHANNEL_DESCRIPTOR
from axiom_client.run.posix_child import PosixChild
from axiom_client.sandbox import linux, process
from axiom_client.sandbox.errors import SandboxError


def main(parent: int, channel: int) -> None:
    """Run the task of this channel. ``parent`` is 0 inside a process namespace."""
    process.reset_signals()
    os.setsid()
    setup_error = ""
    try:
        linux.detach(parent)
    except (SandboxError, OSError) as error:
        setup_error = str(error)
    if channel != CHANNEL_DESCRIPTOR:
        os.dup2(channel, CHANNEL_DESCRIPTOR)
    child.run_assigned(PosixChild(linux_child.confine_cold), setup_error=setup_error)
