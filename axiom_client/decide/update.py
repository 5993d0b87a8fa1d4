"""Which release of the agent is fetched, started, kept or undone. The record of it is on the disk.

A release is a version of axiom-client that the project's staff signed for hosts that update
themselves. The installation itself, which the volunteer made, is never changed, and is what a host
goes back to if nothing else is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import Struct

from axiom_protocol.release import ReleaseFacts, parse_version

STARTS_MAX = 3  # of a release that is not healthy yet: power may fail while it is tried
FAILURES_MAX = 3  # after which a release is not tried again here
RETRY_SECONDS = 86_400.0  # until a failed release is tried again: the server may have been away


class Release(ReleaseFacts, frozen=True, kw_only=True):
    """One signed archive of a version.

    length   bytes of the archive
    """

    sha256: str
    length: int


class Installation(Struct, frozen=True, kw_only=True):
    """What decides whether a release fits: this host's system, its Python, the journal's format."""

    system: str
    python: str
    journal_format: int


class Failure(Struct, frozen=True, kw_only=True):
    """How often a release failed here, when last, and why."""

    count: int
    at_wall: float
    why: str


class Undone(Struct, frozen=True, kw_only=True):
    """The last release that was undone here."""

    version: str
    back_to: str
    at_wall: float
    why: str


class UpdateRecord(Struct, frozen=True, kw_only=True):
    """What this host knows of its releases. Replaced as a whole on the disk.

    current    the newest release that was healthy; empty: the installation itself
    previous   the release before that, which stays on the disk
    staged     a release that is complete on the disk and not healthy yet
    starts     how often ``staged`` was started
    named      the versions that staff named when the project was last asked
    failures   by version
    problem    why the last check brought no release; empty when it did, or there is none
    """

    current: str = ""
    previous: str = ""
    staged: str = ""
    starts: int = 0
    named: list[str] = []
    failures: dict[str, Failure] = {}
    undone: Undone | None = None
    problem: str = ""
    checked_wall: float = 0.0


class Choice(Struct, frozen=True, kw_only=True):
    """The release to fetch, if any, and why a newer one is left out."""

    release: Release | None = None
    problem: str = ""


class Start(Struct, frozen=True, kw_only=True):
    """The version to start. ``release``: whether it is one, not the installation itself.

    trial   it was not healthy yet
    """

    version: str
    release: bool
    trial: bool = False


class Ended(Struct, frozen=True, kw_only=True):
    """How a started version ended, or that it did not become healthy in time.

    code       its exit code, negative for a signal; None: it still runs, and its time is over
    asked      the agent was asked to stop
    healthy    it had reported that it is
    updates    it ended to take up a release
    """

    code: int | None
    asked: bool
    healthy: bool
    updates: bool = False


Verdict = Literal["end", "start", "undo"]


# --- versions -------------------------------------------------------------------------------------


def is_newer(version: str, than: str) -> bool:
    """Whether a version is newer. One that cannot be read, such as "", is older than all others."""
    first, second = parse_version(version), parse_version(than)
    return first is not None and (second is None or first > second)


def _newest(versions: Iterable[str]) -> str:
    newest = ""
    for version in versions:
        newest = version if is_newer(version, newest) else newest
    return newest


# --- what to fetch --------------------------------------------------------------------------------


def choose(
    releases: Iterable[Release], running: str, here: Installation, record: UpdateRecord, wall: float
) -> Choice:
    """The newest release to fetch, newer than all that is staged or runs here. ``wall``: now."""
    floor = _newest([running, record.current, record.staged])
    newer = [r for r in releases if is_newer(r.version, floor)]
    problem = ""
    for release in sorted(newer, key=_preference, reverse=True):
        why = _why_not(release, here) or _why_wait(release, record, wall)
        if not why:
            return Choice(release=release, problem=problem)
        problem = problem or f"{release.version} is left out: {why}"
    return Choice(problem=problem)


def _preference(release: Release) -> tuple[tuple[int, ...], bool, str]:
    """Newest first; of one version, an archive made for a system first."""
    return parse_version(release.version) or (), release.system != "any", release.sha256


def _why_not(release: Release, here: Installation) -> str:
    """Why a release does not fit this host; empty if it does."""
    if release.system not in ("any", here.system):
        return f"it is for {release.system}, and this is {here.system}"
    if not _fits_python(release, here.python):
        below = f" and older than {release.python_below}" if release.python_below else ""
        return (
            f"it needs Python {release.python_from} or newer{below}, and this is {here.python}; "
            "install it by hand with that Python"
        )
    if release.journal_format != here.journal_format:
        return (
            f"it writes a journal of format {release.journal_format}, which {here.journal_format} "
            "could not read if it were undone; install it by hand"
        )
    return ""


def _fits_python(release: Release, python: str) -> bool:
    here, least = _python(python), _python(release.python_from)
    return least <= here and (not release.python_below or here < _python(release.python_below))


def _python(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())[:2]


def _why_wait(release: Release, record: UpdateRecord, wall: float) -> str:
    """Why a release that failed here is not tried now; empty if it may be."""
    failure = record.failures.get(release.version)
    if failure is None:
        return ""
    if failure.count >= FAILURES_MAX:
        return f"it failed {failure.count} times here, last because {failure.why}"
    if wall < failure.at_wall + RETRY_SECONDS:
        return f"it failed here and is tried again after a day: {failure.why}"
    return ""


# --- what to start --------------------------------------------------------------------------------


def settled(record: UpdateRecord, installed: str) -> Start:
    """What to run when none is tried: the newer of the last healthy and the installed version."""
    if record.current and is_newer(record.current, installed):
        return Start(version=record.current, release=True)
    return Start(version=installed, release=False)


def next_start(record: UpdateRecord, installed: str, wall: float) -> tuple[UpdateRecord, Start]:
    """What to start now, and the record to write before it is started."""
    if record.staged and not is_newer(record.staged, settled(record, installed).version):
        record = msgspec.structs.replace(record, staged="", starts=0)
    if record.staged and record.starts >= STARTS_MAX:
        why = f"it was not healthy after {STARTS_MAX} starts"
        record = undo(record, record.staged, installed, why, wall)
    if not record.staged:
        return record, settled(record, installed)
    record = msgspec.structs.replace(record, starts=record.starts + 1)
    return record, Start(version=record.staged, release=True, trial=True)


def stage(record: UpdateRecord, version: str) -> UpdateRecord:
    """The record after a release is complete on the disk."""
    return msgspec.structs.replace(record, staged=version, starts=0, problem="")


def keep(record: UpdateRecord, version: str) -> UpdateRecord:
    """The record after a version on trial has reported that it is healthy."""
    failures = {v: f for v, f in record.failures.items() if is_newer(v, version)}
    record = msgspec.structs.replace(
        record, current=version, previous=record.current, failures=failures
    )
    return _without_staged(record, version)


def undo(record: UpdateRecord, version: str, installed: str, why: str, wall: float) -> UpdateRecord:
    """The record after a version on trial failed.

    The host goes back to the newest release before it that staff still name, or else to the
    installation.
    """
    before = record.failures.get(version)
    failure = Failure(count=1 + (before.count if before else 0), at_wall=wall, why=why)
    others = [v for v in (record.current, record.previous) if v != version]
    current = _newest(v for v in others if v in record.named)
    record = msgspec.structs.replace(
        record, current=current, failures={**record.failures, version: failure}
    )
    back_to = settled(record, installed).version
    undone = Undone(version=version, back_to=back_to, at_wall=wall, why=why)
    return msgspec.structs.replace(_without_staged(record, version), undone=undone)


def _without_staged(record: UpdateRecord, version: str) -> UpdateRecord:
    """The record without this staged release; a newer one may have been staged meanwhile."""
    if record.staged != version:
        return record
    return msgspec.structs.replace(record, staged="", starts=0)


def judge(start: Start, ended: Ended) -> Verdict:
    """What follows from an end: end as well, start what the record says next, or undo first."""
    if ended.code is None:
        return "undo"
    if ended.asked:
        return "end"
    if start.trial and not ended.healthy:
        return "end" if ended.code == 0 else "undo"
    return "start" if ended.updates else "end"


def why_undone(ended: Ended, seconds: float) -> str:
    """The reason, in words, why a trial is undone."""
    if ended.code is None:
        return f"it did not report that it is healthy within {seconds:g} s"
    if ended.code < 0:
        return f"it was ended by signal {-ended.code} before it was healthy"
    return f"it ended with exit code {ended.code} before it was healthy"


def unneeded(record: UpdateRecord, present: Iterable[str]) -> list[str]:
    """Which of the releases on the disk are needed no more."""
    needed = {record.current, record.previous, record.staged}
    return sorted(version for version in present if version not in needed)


# --- for people -----------------------------------------------------------------------------------


def describe(record: UpdateRecord, running: str) -> list[str]:
    """What status and doctor say of updates, one line each."""
    lines = []
    if record.staged and record.staged != running:
        lines.append(f"axiom-client {record.staged} is staged; it starts when no task runs")
    if record.staged and record.staged == running:
        lines.append(f"axiom-client {running} is on trial until it reports that it is healthy")
    if record.undone is not None and not is_newer(record.current, record.undone.version):
        undone = record.undone
        lines.append(
            f"axiom-client {undone.version} was undone, back to {undone.back_to}: {undone.why}"
        )
    if record.problem:
        lines.append(f"update: {record.problem}")
    return lines
