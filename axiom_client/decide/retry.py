"""Decides whether and when to try again. A caller must arrange to be woken at that time."""

from __future__ import annotations

from msgspec import Struct

from axiom_protocol.messages import Outcome

SYNC_FIRST_SECONDS = 2.0  # a server that restarts is back within seconds
SYNC_CAP_SECONDS = 300.0  # tasks take minutes; a longer wait would leave slots idle
BUNDLE_FIRST_SECONDS = 5.0
BUNDLE_CAP_SECONDS = 600.0
BUNDLE_ATTEMPTS_MAX = 10  # over about 40 minutes
LOST_ATTEMPTS_MAX = 3  # a task whose process was lost three times is likely to lose it again
LOST_FIRST_SECONDS = 5.0
RETRY_AFTER_SECONDS_MAX = 3600.0  # a server that is busy for longer can send Retry-After again


class RetryDecision(Struct, frozen=True, kw_only=True):
    """Try again at ``at`` (monotonic seconds)."""

    at: float


def _backoff(now: float, failures: int, first: float, cap: float, jitter: float) -> RetryDecision:
    """Exponential backoff, with a random factor of 0.5 to 1.5 (``jitter`` is 0 to 1)."""
    wait = min(cap, first * 2.0 ** min(failures - 1, 16))
    return RetryDecision(at=now + wait * (0.5 + jitter))


def retry_sync(
    now: float, failures: int, jitter: float, retry_after_seconds: float
) -> RetryDecision:
    """When to send the next request after ``failures`` (>= 1) failed ones in a row.

    Never earlier than the server asked for (``retry_after_seconds``).
    """
    decision = _backoff(now, failures, SYNC_FIRST_SECONDS, SYNC_CAP_SECONDS, jitter)
    asked = min(retry_after_seconds, RETRY_AFTER_SECONDS_MAX)
    return RetryDecision(at=max(decision.at, now + asked))


def retry_bundle(now: float, failures: int, jitter: float) -> RetryDecision | None:
    """When to fetch a bundle after ``failures`` (>= 1) failed tries; None: give its tasks back."""
    if failures >= BUNDLE_ATTEMPTS_MAX:
        return None
    return _backoff(now, failures, BUNDLE_FIRST_SECONDS, BUNDLE_CAP_SECONDS, jitter)


def retry_task(outcome: Outcome, attempts: int, now: float, jitter: float) -> RetryDecision | None:
    """When to run a task again; None: report it.

    Only a task whose process was lost runs again: other outcomes would only repeat.
    """
    if outcome != "lost" or attempts >= LOST_ATTEMPTS_MAX:
        return None
    return _backoff(now, attempts, LOST_FIRST_SECONDS, SYNC_CAP_SECONDS, jitter)
