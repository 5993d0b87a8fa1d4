"""Lowers a host's own limits as its owner's account and the chosen mode say; never raises one.

Whatever the settings are, the host may do at most what its own config allows: a server that is
taken over can make a host do less, never more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from axiom_client.decide.model import AccountControl, AgentState, Limits
from axiom_client.decide.schedule import Span, day
from axiom_protocol.messages import AccountSettings, HostSettings

#: Keys of the config whose values an account may lower.
LOWERED_KEYS = ("cpu.share", "cpu.cores", "gpu.enabled", "run.on_battery", "run.schedule")
LOWEST_REVISION = ""  # before an account has set anything
MODES_MAX = 20


class Restriction(Struct, frozen=True, kw_only=True):
    """Settings in force, and who set them: "set by your account on 27 Nov 2026"."""

    settings: HostSettings
    origin: str
    kept: list[str] = []  # keys that these settings do not lower


def restrictions(state: AgentState) -> list[Restriction]:
    """All settings that are in force beside the config: the account's, then the mode's."""
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
    """The modes that can be switched here; one named on this host comes before the account's."""
    of_account = state.account.modes if state.account and state.control.enabled else {}
    return {**of_account, **state.modes}


def lowered(own: Limits, found: Sequence[Restriction]) -> Limits:
    """The limits in force: of each the lower of the host's own and all others.

    Hours, pauses and drains are conditions of their own: see ``blocked`` and ``drain``.
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
    return structs.replace(limits, **changes, origins=origins) if changes else limits


def closed_hours(state: AgentState) -> list[tuple[Sequence[Span], str]]:
    """The hours of the account and of the mode, each with who set them."""
    return [
        (r.settings.schedule, r.origin)
        for r in restrictions(state)
        if r.settings.schedule and "run.schedule" not in r.kept
    ]


def paused_by(state: AgentState) -> str:
    """Who paused this host other than a person at it; empty when nobody did."""
    return next((r.origin for r in restrictions(state) if r.settings.paused), "")


def drained_by(state: AgentState) -> str:
    """Who drains this host other than a person at it; empty when nobody does."""
    return next((r.origin for r in restrictions(state) if r.settings.draining), "")


def use_limits(state: AgentState) -> None:
    """Work out the limits in force anew, after the config, the account or the mode changed."""
    state.limits = lowered(state.own_limits, restrictions(state))


def describe(settings: HostSettings, kept: AccountControl | None = None) -> list[str]:
    """The settings in words, such as "cpu.share 50%"; those kept out are left away."""
    shown = {
        "paused": "paused" if settings.paused else "",
        "draining": "draining" if settings.draining else "",
        "cpu.share": "" if settings.cpu_share is None else f"cpu.share {settings.cpu_share:.0%}",
        "cpu.cores": "" if settings.cpu_cores is None else f"cpu.cores {settings.cpu_cores}",
        "gpu.enabled": "" if settings.gpus is None else f"GPUs {settings.gpus}",
        "run.on_battery": "not on battery" if settings.on_battery is False else "",
        "run.schedule": "within the hours set" if settings.schedule else "",
    }
    out = kept.kept if kept else []
    return [words for key, words in shown.items() if words and key not in out]
