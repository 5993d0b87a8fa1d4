"""Confines the calling process on Linux, without root and without a helper program.

There are three steps. ``detach`` does not depend on the task, so spare children do it in advance.
``confine_paths`` limits the process to its task's folder. ``confine_calls`` comes last, after all
libraries are loaded, so that memory is counted from the same point in forked and cold children.
Each step raises SandboxError on failure, and then the task must not run.
"""

from __future__ import annotations

import os
import sys

assert sys.platform == "linux"

from axiom_client.sandbox import landlock, limits, process, seccomp
from axiom_client.sandbox.errors import SandboxError
from axiom_client.sandbox.policy import Policy


def detach(parent: int) -> None:
    """Die with the parent, drop all capabilities, be killed first when memory runs out."""
    process.die_with_parent(parent)
    process.prefer_for_oom_kill()
    process.drop_capabilities()


def confine_paths(policy: Policy, gauge: limits.MemoryGauge) -> None:
    """Apply Landlock: only the policy's paths can be opened from now on. Closes all other files."""
    abi = landlock.abi_version()
    if abi < 1:
        raise SandboxError("the kernel has no Landlock")
    landlock.restrict(landlock.prepare(abi, policy))
    lower_priority_and_close_files(policy, gauge)


def lower_priority_and_close_files(policy: Policy, gauge: limits.MemoryGauge) -> None:
    """Take the lowest priority and close all other files. Inside bubblewrap, whose namespaces
    confine the paths, this replaces ``confine_paths``."""
    if policy.background:
        process.lower_priority()
    process.close_others(gauge.fileno())


def confine_calls(
    policy: Policy, gauge: limits.MemoryGauge, program: seccomp.Template | None = None
) -> None:
    """Set resource limits, then load seccomp: the last step before the experiment is loaded.

    ``program``: the template of ``seccomp.build(policy)``, if it was built in advance.
    """
    limits.apply(limits.resource_limits(policy, gauge.read_and_close()))
    program = program or seccomp.template(seccomp.build(policy))
    seccomp.load(seccomp.pack(program, os.getpid()))
