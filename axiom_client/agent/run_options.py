"""Options of one run of the agent. A module of its own, so that importing it loads little."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct


class RunOptions(Struct, frozen=True, kw_only=True):
    """Options of ``axiom-client run``.

    until_idle      end when the server has no more work
    seconds         end after this time
    flags           KEY=VALUE words that override the configuration, also when it is read again
    record_events   file into which all events are written, to replay them
    """

    until_idle: bool = False
    seconds: float | None = None
    flags: list[str] = []
    record_events: Path | None = None
