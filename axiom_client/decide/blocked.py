"""Why no task may run now: the first of the volunteer's conditions that forbids it."""

from __future__ import annotations

from msgspec import Struct

from axiom_client.decide.account import imposed_schedules, paused_by
from axiom_client.decide.model import AgentState, Blocked
from axiom_client.decide.schedule import is_open, moment, next_change

# Tasks resume only this far below the limit: nearer to it they would be paused again in seconds.
COOL_DOWN_CELSIUS = 5.0


class BlockReason(Struct, frozen=True, kw_only=True):
    """Why no task may run. ``kind`` stays the same while the figures in ``text`` change."""

    kind: str
    text: str


def block_reason(state: AgentState) -> BlockReason | None:
    """Why no task may run now; None when tasks may run. A person's pause takes precedence."""
    if state.pause is not None:
        return BlockReason(kind="pause", text=state.pause.reason)
    for condition in (
        _account_pause,
        _account_hours,
        _hours,
        _program,
        _presence,
        _battery,
        _heat,
        _others,
        _disk,
    ):
        if (why := condition(state)) is not None:
            return why
    return None


def blocked_text(state: AgentState) -> str:
    """The reason for people, such as "paused: on battery since 14:02"; empty when tasks may run."""
    why = block_reason(state)
    if why is None:
        return ""
    if why.kind == "pause":
        return why.text
    if (
        why.kind in ("account", "account hours", "hours")
        or state.blocked is None
        or state.blocked.kind != why.kind
    ):
        return f"paused: {why.text}"
    since = state.blocked.since_wall + state.utc_offset_seconds
    return f"paused: {why.text} since {moment(since, state.local)}"


def blocked_seconds(state: AgentState) -> float:
    """How long tasks stay blocked at least: by a pause of known length or run.schedule; else 0."""
    if state.pause is not None:
        until = state.pause.until_wall
        return 0.0 if until is None else max(0.0, until - state.wall)
    schedules = [state.limits.schedule, *(spans for spans, _ in imposed_schedules(state))]
    waits = [0.0]
    for spans in schedules:
        opens = None if is_open(spans, state.local) else next_change(spans, state.local)
        waits.append(0.0 if opens is None else opens - state.local)
    return max(waits)


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
    for spans in (state.limits.schedule, *(spans for spans, _ in imposed_schedules(state))):
        edge = next_change(spans, state.local) if spans else None
        if edge is not None:
            times.append(edge - state.utc_offset_seconds - state.wall_offset)
    return times


# --- the conditions -------------------------------------------------------------------------------


def _account_pause(state: AgentState) -> BlockReason | None:
    origin = paused_by(state)
    return BlockReason(kind="account", text=origin) if origin else None


def _account_hours(state: AgentState) -> BlockReason | None:
    for spans, origin in imposed_schedules(state):
        if not is_open(spans, state.local):
            opens = next_change(spans, state.local)
            until = "" if opens is None else f" until {moment(opens, state.local)}"
            return BlockReason(kind="account hours", text=f"outside the hours{until}, {origin}")
    return None


def _hours(state: AgentState) -> BlockReason | None:
    spans = state.limits.schedule
    if is_open(spans, state.local):
        return None
    opens = next_change(spans, state.local)
    until = "" if opens is None else f" until {moment(opens, state.local)}"
    return BlockReason(kind="hours", text=f"outside the hours of run.schedule{until}")


def _program(state: AgentState) -> BlockReason | None:
    name = state.load.exclusive
    return BlockReason(kind="program", text=f"{name} is running (run.exclusive)") if name else None


def _presence(state: AgentState) -> BlockReason | None:
    if state.limits.while_in_use or not state.load.in_use:
        return None
    return BlockReason(kind="presence", text="this computer is in use")


def _battery(state: AgentState) -> BlockReason | None:
    if state.limits.on_battery or not state.load.on_battery:
        return None
    return BlockReason(kind="battery", text="on battery")


def _heat(state: AgentState) -> BlockReason | None:
    cap, now = state.limits.temperature_max, state.load.temperature
    if not cap or now is None:
        return None
    cooling = state.blocked is not None and state.blocked.kind == "heat"
    if now <= (cap - COOL_DOWN_CELSIUS if cooling else cap):
        return None
    return BlockReason(kind="heat", text=f"processor at {now:.0f} °C (limit {cap:.0f} °C)")


def _others(state: AgentState) -> BlockReason | None:
    limit, facts = state.limits.other_load_share, state.facts
    if not limit or facts is None:
        return None
    share = state.load.other_cores / facts.cpu_cores
    if share <= limit:
        return None
    return BlockReason(
        kind="others", text=f"other programs use {share:.0%} of the processor (limit {limit:.0%})"
    )


def _disk(state: AgentState) -> BlockReason | None:
    free = state.load.disk_free_bytes
    keep = state.limits.disk_kept_bytes(state.load.disk_total_bytes)
    if free is None or free >= keep:
        return None
    return BlockReason(
        kind="disk",
        text=f"{_megabytes(free)} of disk space free, {_megabytes(keep)} to be left free",
    )


def _megabytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"
