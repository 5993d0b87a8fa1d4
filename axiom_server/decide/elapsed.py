"""Limit the elapsed seconds that hosts claim to what the server's own clock allows.

A task cannot have run for longer than since it was granted. A host cannot have used more than its
slots times the wall time in which it held tasks: it earns an *allowance* of slot-seconds during
that time, from which accepted seconds are subtracted. So tasks that were granted early, for the
buffer, cannot be used to claim more time.

A claim far beyond that is recorded as a mismatch, like a wrong result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import Struct

CLOCK_TOLERANCE = 1.02  # the server's clock and the host's differ; quartz is better than 0.1 %
GRACE_SECONDS = 2.0  # for each slot, once: the grant and the report each take a round trip
MISMATCH_FACTOR = 1.2  # no clock drifts that much; smaller excesses are only capped
MISMATCH_SECONDS = 120.0


class Claim(Struct, frozen=True, kw_only=True):
    """One report's elapsed seconds and the server's wall time since its grant."""

    task_id: int
    claimed_seconds: float
    wall_seconds: float


@dataclass(frozen=True, kw_only=True)
class AcceptedTime:
    """Accepted elapsed seconds by task, and what remains of the host's allowance."""

    elapsed_seconds: dict[int, float]
    allowance_seconds: float


def allowance_after(allowance: float, slots: int, seconds: float, held_tasks: bool) -> float:
    """A host's allowance after ``seconds`` in which it held tasks or not."""
    if not held_tasks:
        return 0.0  # nothing ran: an unused allowance must not accumulate
    return allowance + slots * max(0.0, seconds) * CLOCK_TOLERANCE


def cap_claims(claims: Sequence[Claim], allowance: float, slots: int) -> AcceptedTime:
    """Cap each claim by its wall time, then scale all of them down to fit the allowance."""
    capped = {c.task_id: min(c.claimed_seconds, max(0.0, c.wall_seconds)) for c in claims}
    total = sum(capped.values())
    available = allowance + slots * GRACE_SECONDS
    if total > available:
        share = available / total
        capped = {task_id: seconds * share for task_id, seconds in capped.items()}
        total = available
    return AcceptedTime(elapsed_seconds=capped, allowance_seconds=max(0.0, allowance - total))


def find_mismatch(claims: Sequence[Claim], accepted: AcceptedTime) -> tuple[int, str] | None:
    """The largest claim that cannot be true, and why; None when all are possible.

    At most one for each sync, so that a host whose clock or size changed is charged only once.
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
