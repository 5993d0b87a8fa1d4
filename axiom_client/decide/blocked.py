"""Why no task may run now: the first of the volunteer's conditions that forbids it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from axiom_client.decide.account import imposed_schedules, paused_by
from axiom_client.decide.model import AgentState, Blocked
from axiom_client.decide.schedule import Span, is_open, moment, next_change
from axiom_protocol.text import megabytes

# Tasks resume only this far below the limit: nearer to it they would be paused again in seconds.
COOL_DOWN_CELSIUS = 5.0


class BlockReason(Struct, frozen=True, kw_only=True):
    """Why no task may run. ``kind`` stays the same while the figures in ``text`` change."""

    kind: str
    text: str


def block_reason(state: AgentState) -> BlockReason | None:
    """Why no task may run now; None when tasks may run. The first condition that holds counts."""
    for kind, reason in _CONDITIONS.items():
        if text := reason(state):
            return BlockReason(kind=kind, text=text)
    return None


def blocked_text(state: AgentState) -> str:
    """The reason for people, such as "paused: on battery since 14:02"; empty when tasks may run."""
    why = block_reason(state)
    if why is None:
        return ""
    if why.kind == "pause":
        return why.text
    if why.kind in _TIMED or state.blocked is None or state.blocked.kind != why.kind:
        return f"paused: {why.text}"
    since = state.blocked.since_wall + state.utc_offset_seconds
    return f"paused: {why.text} since {moment(since, state.local)}"


def blocked_seconds(state: AgentState) -> float:
    """How long tasks stay blocked at least: by a pause of known length or run.schedule; else 0."""
    if state.pause is not None:
        until = state.pause.until_wall
        return 0.0 if until is None else max(0.0, until - state.wall)
    closed = (spans for spans in _schedules(state) if not is_open(spans, state.local))
    opens = (next_change(spans, state.local) for spans in closed)
    return max((at - state.local for at in opens if at is not None), default=0.0)


def remember_block_reason(state: AgentState) -> None:
    """Note since when the present reason holds, in ``state.blocked``."""
    why = block_reason(state)
    if why is None:
        state.blocked = None
    elif state.blocked is None or state.blocked.kind != why.kind:
        state.blocked = Blocked(kind=why.kind, since_wall=state.wall)


def changes_at(state: AgentState) -> list[float]:
    """Monotonic times at which a pause ends, or the hours of run.schedule begin or end."""
    times = []
    pauses = [state.pause, *(pause for _, pause in sorted(state.gpu_pauses.items()))]
    for pause in pauses:
        if pause is not None and pause.until_wall is not None:
            times.append(pause.until_wall - state.wall_offset)
    for spans in _schedules(state):
        edge = next_change(spans, state.local)
        if edge is not None:
            times.append(edge - state.utc_offset_seconds - state.wall_offset)
    return times


def _schedules(state: AgentState) -> list[Sequence[Span]]:
    """The hours of the config, of the account and of the mode; all must be open."""
    return [state.limits.schedule, *(spans for spans, _ in imposed_schedules(state))]


# --- the conditions: each says in words why no task may run now, and nothing when it allows it ----


def _pause(state: AgentState) -> str:
    return (state.pause.reason or "paused") if state.pause else ""


def _account_hours(state: AgentState) -> str:
    for spans, origin in imposed_schedules(state):
        if not is_open(spans, state.local):
            return f"outside the hours{_until_open(spans, state)}, {origin}"
    return ""


def _hours(state: AgentState) -> str:
    spans = state.limits.schedule
    if is_open(spans, state.local):
        return ""
    return f"outside the hours of run.schedule{_until_open(spans, state)}"


def _until_open(spans: Sequence[Span], state: AgentState) -> str:
    opens = next_change(spans, state.local)
    return "" if opens is None else f" until {moment(opens, state.local)}"


def _program(state: AgentState) -> str:
    name = state.load.exclusive
    return f"{name} is running (run.exclusive)" if name else ""


def _presence(state: AgentState) -> str:
    forbidden = state.load.in_use and not state.limits.while_in_use
    return "this computer is in use" if forbidden else ""


def _battery(state: AgentState) -> str:
    forbidden = state.load.on_battery and not state.limits.on_battery
    return "on battery" if forbidden else ""


def _heat(state: AgentState) -> str:
    cap, now = state.limits.temperature_max, state.load.temperature
    if not cap or now is None:
        return ""
    cooling = state.blocked is not None and state.blocked.kind == "heat"
    if now <= (cap - COOL_DOWN_CELSIUS if cooling else cap):
        return ""
    return f"processor at {now:.0f} °C (limit {cap:.0f} °C)"


def _others(state: AgentState) -> str:
    limit, facts = state.limits.other_load_share, state.facts
    if not limit or facts is None:
        return ""
    share = state.load.other_cores / facts.cpu_cores
    if share <= limit:
        return ""
    return f"other programs use {share:.0%} of the processor (limit {limit:.0%})"


def _disk(state: AgentState) -> str:
    free = state.load.disk_free_bytes
    keep = state.limits.disk_kept_bytes(state.load.disk_total_bytes)
    if free is None or free >= keep:
        return ""
    return f"{megabytes(free)} of disk space free, {megabytes(keep)} to be left free"


#: By kind; earlier ones take precedence.
_CONDITIONS: dict[str, Callable[[AgentState], str]] = {
    "pause": _pause,
    "account": paused_by,
    "account hours": _account_hours,
    "hours": _hours,
    "program": _program,
    "presence": _presence,
    "battery": _battery,
    "heat": _heat,
    "others": _others,
    "disk": _disk,
}
_TIMED = frozenset({"account", "account hours", "hours"})  # their words name a time already
