"""Applies the settings of the owner's account and of the chosen mode to the host's own limits.

Settings can lower a limit and never raise one, so that a compromised server can make a host do
less than its own config allows, but never more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from axiom_client.decide.model import AccountControl, AgentState, Limits
from axiom_client.decide.schedule import Span, day
from axiom_protocol.messages import AccountSettings, HostSettings

#: Keys of the config whose values an account may lower.
LOWERED_KEYS = ("cpu.share", "cpu.cores", "gpu.enabled", "run.on_battery", "run.schedule")
MODES_MAX = 20  # named on one host


class Restriction(Struct, frozen=True, kw_only=True):
    """Settings in force, and who set them: "set by your account on 2026-11-27"."""

    settings: HostSettings
    origin: str
    kept: list[str] = []  # config keys that these settings may not lower


def restrictions(state: AgentState) -> list[Restriction]:
    """All settings in force in addition to the config: the account's, then the mode's."""
    found = []
    account = state.account
    if account is not None and state.control.enabled:
        origin = origin_of(account, state.utc_offset_seconds)
        found = [
            Restriction(settings=settings, origin=origin, kept=state.control.kept)
            for settings in account.settings
        ]
    if (chosen := known_modes(state).get(state.mode)) is not None:
        found.append(Restriction(settings=chosen, origin=f"mode {state.mode}"))
    return found


def origin_of(account: AccountSettings, utc_offset_seconds: int) -> str:
    """Who set the account's settings and when, for people."""
    return f"set by your account on {day(account.set_at + utc_offset_seconds)}"


def known_modes(state: AgentState) -> Mapping[str, HostSettings]:
    """The modes that can be chosen here; one named on this host replaces the account's."""
    of_account = state.account.modes if state.account and state.control.enabled else {}
    return {**of_account, **state.modes}


def lowered(own: Limits, found: Sequence[Restriction]) -> Limits:
    """The limits in force: each is the lowest of the host's own and of all restrictions.

    Hours, pauses and drains are not limits; ``blocked`` and ``drain`` handle them.
    """
    limits = own
    for restriction in found:
        limits = _lower(limits, restriction)
    return limits


def _lower(limits: Limits, restriction: Restriction) -> Limits:
    asked, origins = restriction.settings, dict(limits.origins)
    changes: dict[str, object] = {}

    def note(key: str, field: str, value: object, lower: bool) -> None:
        if lower and key not in restriction.kept:
            changes[field] = value
            origins[key] = restriction.origin

    share, cores, gpus = asked.cpu_share, asked.cpu_cores, asked.gpus
    note("cpu.share", "cpu_share", share, share is not None and share < limits.cpu_share)
    if cores == 0:  # 0 cores in Limits means no limit
        note("cpu.cores", "cpu_share", 0.0, limits.cpu_share > 0)
    else:
        fewer = cores is not None and (not limits.cpu_cores or cores < limits.cpu_cores)
        note("cpu.cores", "cpu_cores", cores, fewer)
    before = limits.gpus_max
    note("gpu.enabled", "gpus_max", gpus, gpus is not None and (before is None or gpus < before))
    note("run.on_battery", "on_battery", False, asked.on_battery is False and limits.on_battery)
    return structs.replace(limits, **changes, origins=origins)


def imposed_schedules(state: AgentState) -> list[tuple[Sequence[Span], str]]:
    """The hours that the account and the mode allow, each with who set them."""
    return [
        (r.settings.schedule, r.origin)
        for r in restrictions(state)
        if r.settings.schedule and "run.schedule" not in r.kept
    ]


def paused_by(state: AgentState) -> str:
    """Which account or mode pauses this host; empty when none does."""
    return next((r.origin for r in restrictions(state) if r.settings.paused), "")


def drained_by(state: AgentState) -> str:
    """Which account or mode drains this host; empty when none does."""
    return next((r.origin for r in restrictions(state) if r.settings.draining), "")


def update_limits(state: AgentState) -> None:
    """Compute the limits in force again after the config, the account or the mode changed."""
    state.limits = lowered(state.own_limits, restrictions(state))


def describe(settings: HostSettings, kept: AccountControl | None = None) -> list[str]:
    """The settings in words, such as "cpu.share 50%", without those that ``kept`` excludes."""
    words = ["paused"] if settings.paused else []
    words += ["draining"] if settings.draining else []
    limits = {
        "cpu.share": "" if settings.cpu_share is None else f"cpu.share {settings.cpu_share:.0%}",
        "cpu.cores": "" if settings.cpu_cores is None else f"cpu.cores {settings.cpu_cores}",
        "gpu.enabled": "" if settings.gpus is None else f"GPUs {settings.gpus}",
        "run.on_battery": "not on battery" if settings.on_battery is False else "",
        "run.schedule": "within the hours set" if settings.schedule else "",
    }
    excluded = kept.kept if kept else []
    return words + [text for key, text in limits.items() if text and key not in excluded]
