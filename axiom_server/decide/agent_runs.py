"""Recognise copies of an agent: two runs with one identity, from a copied disk or container volume.

Each start of an agent is a run with a random id. A new run replaces the previous run at once if it
is known that the previous run has ended: it said so, or both ran in the same folder of the same
running system, where a lock admits only one agent. Otherwise the new run may be a copy, so it
waits: no tasks are granted to it and none are taken back. If the previous run then sends a request,
the new run is a copy. If the previous run stays silent for too long, the new run is a restart,
after a power cut or on other hardware.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

RUNS_MAX = 12  # remembered of one host; the oldest are forgotten

State = Literal["current", "waiting", "ended", "copy"]
Verdict = Literal["accepted", "waiting", "late", "copy"]


class KnownRun(Struct, frozen=True, kw_only=True):
    """A run that has sent requests, as it is stored with its host.

    number   of its newest request
    seen_at  when that came, seconds since 1970
    mark     of a waiting run: ``number`` of the current run at its last request
    """

    run: str
    state: State
    place: str = ""
    number: Annotated[int, Meta(ge=0)] = 0
    seen_at: float = 0.0
    mark: int = 0
    ending: bool = False


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The run that sends a request, and the request's number (0: another run made the request)."""

    run: str
    place: str
    number: int
    ending: bool


@dataclass(frozen=True, kw_only=True)
class RunDecision:
    """The host's runs after a request, and how the request is answered.

    accepted   like any other
    waiting    without changing anything yet
    late       the request was sent before its run ended: only its reports count
    copy       the run is a copy of another, and must join as a new host
    """

    verdict: Verdict
    runs: list[KnownRun]


def request_number(request_id: str, run: str) -> int:
    """The number in an id RUN-NUMBER; 0 if another run made the request, which is sent again."""
    instance, _, number = request_id.rpartition("-")
    return int(number) if instance == run and number.isascii() and number.isdigit() else 0


def decide_run(
    known: Sequence[KnownRun], caller: Caller, now: float, silent_seconds: float
) -> RunDecision:
    """Decide which run a request comes from, and whether it may use the host's identity.

    silent_seconds  a run that sent nothing for this long has ended
    """
    runs = {run.run: run for run in known}
    current = next((run for run in known if run.state == "current"), None)
    found = runs.get(caller.run)
    if current is None:
        return _accept(runs, caller, now)
    if found is not None and found.state == "current":
        return _continue(runs, found, caller, now)
    if found is not None and found.state == "copy":
        return RunDecision(verdict="copy", runs=list(known))
    if found is not None and found.state == "ended":
        return _after_end(runs, found, current, caller, now)
    if _has_ended(current, caller, now, silent_seconds):
        return _accept(runs, caller, now)
    return _wait(runs, current, caller, now)


def _has_ended(current: KnownRun, caller: Caller, now: float, silent_seconds: float) -> bool:
    same_place = bool(caller.place) and caller.place == current.place
    return same_place or current.ending or now - current.seen_at > silent_seconds


def _accept(runs: dict[str, KnownRun], caller: Caller, now: float) -> RunDecision:
    """The caller replaces the current run."""
    ended = {
        name: msgspec.structs.replace(run, state="ended") if run.state == "current" else run
        for name, run in runs.items()
    }
    return RunDecision(
        verdict="accepted", runs=_kept(ended | {caller.run: _made(caller, "current", now)})
    )


def _continue(
    runs: dict[str, KnownRun], current: KnownRun, caller: Caller, now: float
) -> RunDecision:
    """The current run still sends requests, so the runs that wait for its end are copies of it."""
    number = max(current.number, caller.number)
    changed = {
        name: msgspec.structs.replace(run, state="copy")
        if run.state == "waiting" and number > run.mark
        else run
        for name, run in runs.items()
    }
    changed[caller.run] = _made(caller, "current", now, number=number)
    return RunDecision(verdict="accepted", runs=_kept(changed))


def _after_end(
    runs: dict[str, KnownRun], ended: KnownRun, current: KnownRun, caller: Caller, now: float
) -> RunDecision:
    """A replaced run sends a request: a delayed one if its number is old; else the run lives.

    Then it is a copy. In the place of the current run it is none: the current run is an earlier
    one, whose first request arrived after the caller's.
    """
    if caller.number <= ended.number:
        return RunDecision(verdict="late", runs=list(runs.values()))
    if caller.place and caller.place == current.place:
        return _accept(runs, caller, now)
    runs[caller.run] = _made(caller, "copy", now)
    return RunDecision(verdict="copy", runs=_kept(runs))


def _wait(runs: dict[str, KnownRun], current: KnownRun, caller: Caller, now: float) -> RunDecision:
    made = _made(caller, "waiting", now)
    runs[caller.run] = msgspec.structs.replace(made, mark=current.number)
    return RunDecision(verdict="waiting", runs=_kept(runs))


def _made(caller: Caller, state: State, now: float, *, number: int | None = None) -> KnownRun:
    return KnownRun(
        run=caller.run, state=state, place=caller.place, seen_at=now, ending=caller.ending,
        number=caller.number if number is None else number,
    )  # fmt: skip


def _kept(runs: dict[str, KnownRun]) -> list[KnownRun]:
    """The newest runs, always with the current one."""
    order = sorted(runs.values(), key=lambda r: (r.state != "current", -r.seen_at, r.run))
    return order[:RUNS_MAX]
