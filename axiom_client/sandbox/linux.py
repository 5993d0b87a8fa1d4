"""Confine the calling process on Linux, with no root and no helper program.

In three steps. ``detach`` needs nothing of the task, so a spare child does it ahead of time;
``confine_paths`` binds the process to its task's folder; ``confine_calls`` comes last, when every
library that the experiment may use is loaded, so that memory counts from the same point in a
forked child and in a cold one. Each raises SandboxError, and then nothing of the task may run.
"""

from __future__ import annotations

import os

from axiom_client.sandbox import landlock, limits, process, seccomp
from axiom_client.sandbox.libc import SandboxError
from axiom_client.sandbox.policy import Policy


def detach(parent: int) -> None:
    """Die with the parent; no capabilities, the first to go when memory runs out."""
    process.die_with(parent)
    process.volunteer_for_oom()
    process.drop_capabilities()


def confine_paths(policy: Policy, gauge: limits.MemoryGauge) -> None:
    """Landlock: from here on only the policy's paths can be opened. Closes every other file."""
    abi = landlock.abi_version()
    if abi < 1:
        raise SandboxError("the kernel has no Landlock")
    landlock.restrict(landlock.prepare(abi, policy))
    step_aside(policy, gauge)


def step_aside(policy: Policy, gauge: limits.MemoryGauge) -> None:
    """Lowest rank, and no file but its own: all of ``confine_paths`` inside bubblewrap, whose
    namespaces hold the paths."""
    if policy.background:
        process.step_back()
    process.close_others(gauge.fileno())


def confine_calls(
    policy: Policy, gauge: limits.MemoryGauge, program: seccomp.Template | None = None
) -> None:
    """Limits, then seccomp: the last thing that is done before the experiment is loaded.

    ``program``, when given, is the template of ``seccomp.build(policy)`` made beforehand.
    """
    limits.apply(limits.resource_limits(policy, gauge.read_and_close()))
    program = program or seccomp.template(seccomp.build(policy))
    seccomp.load(seccomp.pack(program, os.getpid()))
