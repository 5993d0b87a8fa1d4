"""How much of a claimed elapsed time is believed: never more than the server's own clock allows.

A task cannot have run longer than since it was granted. A host as a whole cannot have spent more
than its slots times the wall time in which it held tasks: it earns an *allowance* of slot-seconds
while it does, and what is believed is taken out of it. So a buffer granted early is no licence.

What is claimed far beyond that is a lie, and is charged to the host as a wrong result is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import Struct

CLOCK_TOLERANCE = 1.02  # two clocks, one of them a volunteer's: quartz is better than 0.1 %
GRACE_SECONDS = 2.0  # a slot, once: the grant and the report each take a round trip
MISMATCH_FACTOR = 1.2  # no clock drifts so far: less is capped and not held against the host
MISMATCH_SECONDS = 120.0


class Claim(Struct, frozen=True, kw_only=True):
    """One report's elapsed seconds and the server's wall time since its grant."""

    task_id: int
    claimed_seconds: float
    wall_seconds: float


@dataclass(frozen=True, kw_only=True)
class AcceptedTime:
    """Elapsed seconds by task, and what is left of the host's allowance."""

    elapsed_seconds: dict[int, float]
    allowance_seconds: float


def allowance_after(allowance: float, slots: int, seconds: float, held_tasks: bool) -> float:
    """The host's allowance after ``seconds`` in which it held tasks, or did not."""
    if not held_tasks:
        return 0.0  # nothing was running: nothing is owed, and nothing is saved up
    return allowance + slots * max(0.0, seconds) * CLOCK_TOLERANCE


def cap_claims(claims: Sequence[Claim], allowance: float, slots: int) -> AcceptedTime:
    """Cap each claim by its own wall time, then all of them in proportion by the allowance."""
    capped = {c.task_id: min(c.claimed_seconds, max(0.0, c.wall_seconds)) for c in claims}
    total = sum(capped.values())
    available = allowance + slots * GRACE_SECONDS
    if total > available:
        share = available / total
        capped = {task_id: seconds * share for task_id, seconds in capped.items()}
        total = available
    return AcceptedTime(elapsed_seconds=capped, allowance_seconds=max(0.0, allowance - total))


def find_mismatch(claims: Sequence[Claim], accepted: AcceptedTime) -> tuple[int, str] | None:
    """The worst claim that cannot be true, and why; None when all could be.

    One for a whole report, however many tasks it names: a host that was moved or resized errs once.
    """
    worst = max(
        claims,
        key=lambda c: (c.claimed_seconds - accepted.elapsed_seconds[c.task_id], -c.task_id),
        default=None,
    )
    if worst is None:
        return None
    possible = accepted.elapsed_seconds[worst.task_id]
    if worst.claimed_seconds <= MISMATCH_FACTOR * possible + MISMATCH_SECONDS:
        return None
    return worst.task_id, f"claims {worst.claimed_seconds:.0f} s where {possible:.0f} s passed"
