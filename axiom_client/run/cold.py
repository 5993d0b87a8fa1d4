"""The cold path: exec'd for one task, confined before it imports any library. For GPUs, and
where the kernel's own help is not to be had."""

from __future__ import annotations

import os

from axiom_client.run import child
from axiom_client.run.channel import CHANNEL_DESCRIPTOR
from axiom_client.sandbox import linux, process
from axiom_client.sandbox.libc import SandboxError


def main(parent: int, channel: int) -> None:
    """Run the one task whose channel this is. ``parent`` is 0 in a process namespace of its own."""
    process.reset_signals()
    os.setsid()
    trouble = ""
    try:
        linux.detach(parent)
    except (SandboxError, OSError) as error:
        trouble = str(error)
    if channel != CHANNEL_DESCRIPTOR:
        os.dup2(channel, CHANNEL_DESCRIPTOR)
    child.run_assigned(None, cold=True, trouble=trouble)
