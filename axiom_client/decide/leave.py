"""Decides whether the agent ends now, and why."""

from __future__ import annotations

from axiom_client.decide import commands as c
from axiom_client.decide.drain import deadline_passed, has_open_work
from axiom_client.decide.model import NEVER, AgentState
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.task import has_running, has_unended

# Failed requests in a row, over some two minutes, after which ``run --until-idle`` gives up.
SERVER_FAILURES_MAX = 7


def exit_when_done(builder: StepBuilder) -> None:
    """End the agent if there is a reason to."""
    if (command := _exit_command(builder.state)) is not None:
        builder.state.exited = True
        builder.do(command)


def _exit_command(state: AgentState) -> c.Exit | None:
    """The command to end the agent; None while it should run on."""
    for reason in (_stopped, _unreachable, _drained, _out_of_work):
        if (command := reason(state)) is not None:
            return command
    return None


def _stopped(state: AgentState) -> c.Exit | None:
    """A stop was requested, and all tasks and reports are settled or the time for that is over."""
    if state.stop is None:
        return None
    reported = state.reports_since > state.now or state.sync.not_before == NEVER
    settled = reported and not has_running(state) and state.sync.in_flight is None
    if settled or state.now >= state.stop.give_up_at:
        return c.Exit(reason=state.stop.reason, fault="update" if state.stop.update else "")
    return None


def _unreachable(state: AgentState) -> c.Exit | None:
    """No task is left to run, and the server does not answer."""
    if not state.sync.failures or has_unended(state):
        return None
    if state.until_idle and state.sync.failures >= SERVER_FAILURES_MAX:
        return c.Exit(reason=state.sync.problem, fault="unreachable")
    if _drains_to_exit(state) and deadline_passed(state):
        return _drain_exit(state, "; unsent reports are kept for the next start")
    return None


def _drained(state: AgentState) -> c.Exit | None:
    """A drain that ends the agent is complete, and the server has the last reports."""
    unsent = state.sync.wanted_now and not state.sync.failures
    if _drains_to_exit(state) and not has_open_work(state) and not unsent:
        return _drain_exit(state)
    return None


def _out_of_work(state: AgentState) -> c.Exit | None:
    """``run --until-idle`` has asked for work for all cores and GPUs, and the server has none."""
    asked_for_all = state.gpus_known and not state.sync.wanted_now
    idle = state.sync.out_of_work and not has_open_work(state)
    if state.until_idle and idle and asked_for_all:
        return c.Exit(reason="the server has no more work")
    return None


def _drains_to_exit(state: AgentState) -> bool:
    return state.drain is not None and state.drain.then == "exit"


def _drain_exit(state: AgentState, remark: str = "") -> c.Exit:
    assert state.drain is not None
    return c.Exit(reason=f"drained: {state.drain.reason}{remark}")
