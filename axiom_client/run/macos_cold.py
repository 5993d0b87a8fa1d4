"""The entry point of a task's process on macOS: a new interpreter, confined after its imports.

Libraries are imported before Seatbelt: its profile forbids services that they may ask for at their
import. Nothing of the experiment is loaded before the process is confined.
"""

from __future__ import annotations

import os
import sys

assert sys.platform != "win32"

from axiom_client.run import child
from axiom_client.run.channel import CHANNEL_DESCRIPTOR, Assignment
from axiom_client.run.posix_child import PosixChild
from axiom_client.sandbox import macos_process


def main(parent: int, channel: int) -> None:
    """Run the task of this channel. The agent's keeper ends this process with the agent."""
    setup_error = "" if os.getppid() == parent else "the agent has already ended"
    macos_process.detach()
    if channel != CHANNEL_DESCRIPTOR:
        os.dup2(channel, CHANNEL_DESCRIPTOR)
    child.run_assigned(PosixChild(_confine), setup_error=setup_error)


def _confine(assignment: Assignment) -> None:
    from axiom_client.run import libraries

    libraries.load(assignment.environment)
    child.seed_libraries(assignment.seed)
    sys.stdout, sys.stderr = child.text_output(1), child.text_output(2)
    macos_process.confine(assignment.policy)
