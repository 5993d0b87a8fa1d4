"""Starts a zygote ahead of the first task, and ends idle ones."""

from __future__ import annotations

from axiom_client.decide import commands as c
from axiom_client.decide.model import NEVER, AgentState
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.task import WAITING, has_unended
from axiom_client.decide.task_run import Environment

RELEASE_SECONDS = 120.0  # zygotes end after this idle time; longer than a gap between batches


def keep_warm(builder: StepBuilder) -> None:
    """Start a zygote when tasks are in hand; end all zygotes after a while without tasks."""
    state = builder.state
    state.idle_since = NEVER if has_unended(state) else min(state.idle_since, state.now)
    if state.idle_since == NEVER and not state.warm:
        state.warm = True
        builder.do(c.Prewarm(environment=_likely_environment(state)))
    elif state.warm and state.now >= state.idle_since + RELEASE_SECONDS:
        state.warm = False
        builder.do(c.ReleaseIdle())


def _likely_environment(state: AgentState) -> Environment:
    """The environment of a waiting task if one is known, else numpy, the cheaper one to start."""
    for _, task in sorted(state.tasks.items()):
        bundle = state.bundles.get(task.record.grant.sha256)
        if task.phase in WAITING and bundle is not None and bundle.manifest is not None:
            return bundle.manifest.environment
    return "numpy"
