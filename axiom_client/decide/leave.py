"""Whether the agent should end now, and with which reason."""

from __future__ import annotations

from axiom_client.decide import commands as c
from axiom_client.decide.drain import deadline_passed
from axiom_client.decide.model import NEVER, AgentState
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.task import ALIVE

SERVER_FAILURES_MAX = 7  # in a row, some two minutes, before a run until idle gives up asking


def leave(builder: StepBuilder) -> None:
    if (leave := _exit_command(builder.state)) is not None:
        builder.state.exited = True
        builder.do(leave)


def _exit_command(state: AgentState) -> c.Exit | None:
    """Why the agent should end now; None while it should not."""
    for reason in (_stopped, _unreachable, _drained, _out_of_work):
        if (command := reason(state)) is not None:
            return command
    return None


def _stopped(state: AgentState) -> c.Exit | None:
    """A stop was asked for, and what it waits for has come or taken too long."""
    if state.stop is None:
        return None
    alive = any(task.phase in ALIVE for task in state.tasks.values())
    reported = state.reports_since > state.now or state.sync.not_before == NEVER
    settled = reported and not alive and state.sync.in_flight is None
    if settled or state.now >= state.stop.give_up_at:
        return c.Exit(reason=state.stop.reason)
    return None


def _unreachable(state: AgentState) -> c.Exit | None:
    """Only the server could bring more to do, and it does not answer."""
    if not state.sync.failures or _has_tasks_to_run(state):
        return None
    if state.until_idle and state.sync.failures >= SERVER_FAILURES_MAX:
        return c.Exit(reason=state.sync.problem, fault="unreachable")
    if _drains_to_exit(state) and deadline_passed(state):
        return _drain_exit(state, "; reports wait for the next start")
    return None


def _drained(state: AgentState) -> c.Exit | None:
    """A drain that ends the agent is complete, and the server knows."""
    unsent = state.sync.wanted_now and not state.sync.failures
    if _drains_to_exit(state) and not _has_open_work(state) and not unsent:
        return _drain_exit(state)
    return None


def _out_of_work(state: AgentState) -> c.Exit | None:
    """A run until idle has asked for work for everything here, and the server has none."""
    asked_for_all = state.gpus_known and not state.sync.wanted_now
    idle = state.sync.out_of_work and not _has_open_work(state)
    if state.until_idle and idle and asked_for_all:
        return c.Exit(reason="the server has no more work")
    return None


def _drains_to_exit(state: AgentState) -> bool:
    return state.drain is not None and state.drain.then == "exit"


def _drain_exit(state: AgentState, remark: str = "") -> c.Exit:
    assert state.drain is not None
    return c.Exit(reason=f"drained: {state.drain.reason}{remark}")


def _has_open_work(state: AgentState) -> bool:
    """Whether a task is in hand, its report included, or a request without its answer."""
    sync = state.sync
    return bool(state.tasks) or sync.in_flight is not None or sync.unanswered is not None


def _has_tasks_to_run(state: AgentState) -> bool:
    """Whether a task is still to be run; reports that wait are kept for the next start."""
    return any(task.phase != "ended" for task in state.tasks.values())
