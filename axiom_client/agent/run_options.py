"""How one run of the agent differs from a service's. Apart, so that asking for it loads nothing."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct


class RunOptions(Struct, frozen=True, kw_only=True):
    """``flags``: KEY=VALUE, which beat the configuration file also when that is read again."""

    until_idle: bool = False
    seconds: float | None = None
    flags: list[str] = []
    record_events: Path | None = None
