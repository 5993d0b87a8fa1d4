"""Whether and when to try again, as data. Who takes a RetryDecision must be woken at its time."""

from __future__ import annotations

from msgspec import Struct

from axiom_protocol.messages import Outcome

SYNC_FIRST_SECONDS = 2.0  # a server that restarts is back within seconds
SYNC_CAP_SECONDS = 300.0  # tasks take minutes: more patience would idle slots, less would be noise
BUNDLE_FIRST_SECONDS = 5.0
BUNDLE_CAP_SECONDS = 600.0
BUNDLE_ATTEMPTS_MAX = 10  # about 40 minutes
LOST_ATTEMPTS_MAX = 3  # a process that vanishes thrice will vanish again
LOST_FIRST_SECONDS = 5.0
RETRY_AFTER_SECONDS_MAX = 3600.0  # a server that is busy for longer can ask again


class RetryDecision(Struct, frozen=True, kw_only=True):
    """Try again at ``at`` (monotonic seconds)."""

    at: float


def _backoff(now: float, failures: int, first: float, cap: float, jitter: float) -> RetryDecision:
    """Doubling waits, spread over half to one and a half of themselves."""
    wait = min(cap, first * 2.0 ** min(failures - 1, 16))
    return RetryDecision(at=now + wait * (0.5 + jitter))


def retry_sync(
    now: float, failures: int, jitter: float, retry_after_seconds: float = 0.0
) -> RetryDecision:
    """After ``failures`` (>= 1) unanswered requests in a row; not before the server's own wish."""
    decision = _backoff(now, failures, SYNC_FIRST_SECONDS, SYNC_CAP_SECONDS, jitter)
    asked = min(max(0.0, retry_after_seconds), RETRY_AFTER_SECONDS_MAX)
    return RetryDecision(at=max(decision.at, now + asked))


def retry_bundle(now: float, failures: int, jitter: float) -> RetryDecision | None:
    """After ``failures`` (>= 1) failed fetches of a bundle; None: another host may do better."""
    if failures >= BUNDLE_ATTEMPTS_MAX:
        return None
    return _backoff(now, failures, BUNDLE_FIRST_SECONDS, BUNDLE_CAP_SECONDS, jitter)


def retry_task(outcome: Outcome, attempts: int, now: float, jitter: float) -> RetryDecision | None:
    """None: report it. Only a lost process is run again: other outcomes would repeat themselves."""
    if outcome != "lost" or attempts >= LOST_ATTEMPTS_MAX:
        return None
    return _backoff(now, attempts, LOST_FIRST_SECONDS, SYNC_CAP_SECONDS, jitter)
