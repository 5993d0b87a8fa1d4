"""The entry point of a task's process on macOS: a new interpreter, confined after its imports.

Libraries are imported before Seatbelt: its profile forbids services that they may ask for at their
import. Nothing of the experiment is loaded before the process is confined. A standby process has
imported them before it knows its task; from then on it does the same.
"""

from __future__ import annotations

import os
import sys

assert sys.platform != "win32"

from axiom_client.run import child, posix_standby_child
from axiom_client.run.channel import CHANNEL_DESCRIPTOR, Assignment
from axiom_client.run.posix_child import PosixChild
from axiom_client.sandbox import macos_process


def main(parent: int, descriptor: int, standby: str = "", background: bool = False) -> None:
    """Run one task. The agent's keeper ends this process with the agent.

    descriptor   the task's channel, or the socket on which a standby process receives it
    standby      the environment that a standby process loads; empty: it has a task
    """
    setup_error = "" if os.getppid() == parent else "the agent has already ended"
    macos_process.detach()
    if standby:
        posix_standby_child.wait_for_task(descriptor, standby, background)
    elif descriptor != CHANNEL_DESCRIPTOR:
        os.dup2(descriptor, CHANNEL_DESCRIPTOR)
    child.run_assigned(PosixChild(_confine), setup_error=setup_error)


def _confine(assignment: Assignment) -> None:
    from axiom_client.run import libraries

    libraries.load(assignment.environment)
    child.seed_libraries(assignment.seed)
    sys.stdout, sys.stderr = child.text_output(1), child.text_output(2)
    macos_process.confine(assignment.policy)
