"""Recognise copies of an agent: two runs with one identity, from a copied disk or container volume.

Each start of an agent is a run with a random id. Where a run can prove that the one before it has
ended (it says so, or both ran in the same folder of the same running system, which a lock allows to
one agent only), it takes its place at once. Otherwise it may be a copy, so it waits: nothing is
granted to it and nothing taken back, until the other run is heard (then it is a copy) or has been
silent for too long (then it is a restart, after a power cut or on other hardware).
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
    mark     of a waiting run: ``number`` of the current run when it began to wait
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
    """The run that sends a request; the request's number, 0 if it is none of its own."""

    run: str
    place: str
    number: int
    ending: bool


@dataclass(frozen=True, kw_only=True)
class RunDecision:
    """What the host's runs are from now on, and what follows for the request.

    accepted   it is answered as any other
    waiting    nothing is changed for it yet
    late       it was sent before its run ended: only its reports count
    copy       its run is another's copy, and must join as a host of its own
    """

    verdict: Verdict
    runs: list[KnownRun]


def request_number(request_id: str, run: str) -> int:
    """The number in an id RUN-NUMBER; 0 for the request of another run, sent again."""
    instance, _, number = request_id.rpartition("-")
    return int(number) if instance == run and number.isascii() and number.isdigit() else 0


def decide_run(
    known: Sequence[KnownRun], caller: Caller, now: float, silent_seconds: float
) -> RunDecision:
    """Decide which run a request comes from, and whether it may use the host's identity.

    silent_seconds  a run that was not heard for this long has ended
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
        return _after_end(runs, found, caller, now)
    if _has_ended(current, caller, now, silent_seconds):
        return _accept(runs, caller, now)
    return _wait(runs, current, caller, now)


def _has_ended(current: KnownRun, caller: Caller, now: float, silent_seconds: float) -> bool:
    same_place = bool(caller.place) and caller.place == current.place
    return same_place or current.ending or now - current.seen_at > silent_seconds


def _accept(runs: dict[str, KnownRun], caller: Caller, now: float) -> RunDecision:
    """The caller takes the place of the run before it."""
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
    """The current run lives: those that have waited for its end are copies of it."""
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
    runs: dict[str, KnownRun], ended: KnownRun, caller: Caller, now: float
) -> RunDecision:
    """A run whose place was taken is heard again: a delayed request of it, or it lives."""
    if caller.number <= ended.number:
        return RunDecision(verdict="late", runs=list(runs.values()))
    runs[caller.run] = _made(caller, "copy", now)
    return RunDecision(verdict="copy", runs=_kept(runs))


def _wait(runs: dict[str, KnownRun], current: KnownRun, caller: Caller, now: float) -> RunDecision:
    before = runs.get(caller.run)
    mark = before.mark if before is not None else current.number
    runs[caller.run] = msgspec.structs.replace(_made(caller, "waiting", now), mark=mark)
    return RunDecision(verdict="waiting", runs=_kept(runs))


def _made(caller: Caller, state: State, now: float, *, number: int | None = None) -> KnownRun:
    return KnownRun(
        run=caller.run, state=state, place=caller.place, seen_at=now, ending=caller.ending,
        number=caller.number if number is None else number,
    )  # fmt: skip


def _kept(runs: dict[str, KnownRun]) -> list[KnownRun]:
    """The newest runs, the current one among them."""
    order = sorted(runs.values(), key=lambda r: (r.state != "current", -r.seen_at, r.run))
    return order[:RUNS_MAX]
