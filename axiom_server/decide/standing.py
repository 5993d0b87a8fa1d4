"""Who may judge whom, and how much an account may hold: what it has earned, never what it claims.

An account earns standing by results that others confirmed, by time, and by how many accounts
confirmed it. What a host says of itself (its cores, its memory) can only lower what it gets. Staff
anchor a project by trusting hosts of their own; without an anchor, accounts judge each other until
enough of them have standing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from msgspec import Meta, Struct

DAY = 86400.0


class StandingPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The conditions of standing.

    newcomer_cores     cores that a new account is believed to have, over all its hosts
    unconfirmed_max    results that may wait for confirmation, for each believed core: a crowd
                       cannot fill the judges' hosts with what it has returned
    cores_per_result   cores that each confirmed result adds: 240 cores after 116 of them
    judge_results      confirmed results after which an account may judge others
    judge_accounts     other accounts that must have confirmed them, unless one is staff's
    judge_days         since the account was made: a crowd that joins today judges nobody today
    senior_days        ... after which it may also settle disputes of younger judges
    judges_min         accounts that may judge, from which on newcomers no longer do
    young_share        of the checks that judges younger than ``senior_days`` make together
    """

    newcomer_cores: Annotated[int, Meta(ge=1)] = 8
    unconfirmed_max: Annotated[int, Meta(ge=1)] = 4
    cores_per_result: Annotated[int, Meta(ge=0)] = 2
    judge_results: Annotated[int, Meta(ge=1)] = 10
    judge_accounts: Annotated[int, Meta(ge=0)] = 3
    judge_days: Annotated[float, Meta(ge=0)] = 2.0
    senior_days: Annotated[float, Meta(ge=0)] = 30.0
    judges_min: Annotated[int, Meta(ge=1)] = 5
    young_share: Annotated[float, Meta(ge=0, le=1)] = 0.25


class Level(IntEnum):
    """How much an account's answer counts: where levels meet, the highest decides."""

    NEWCOMER = 0
    JUDGE = 1
    SENIOR = 2
    STAFF = 3


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is known of a host and its account.

    trusted    staff's own host, or one they answer for: its results are the truth
    vouched    staff made the account for somebody: it is believed its cores, and judges nobody yet
    validated  results that others confirmed; ``agreeing``: how many accounts did
    streak     confirmed results of the host since one was refuted; negative after that
    returned   tasks given back or lost since the last successes
    unconfirmed  results that wait for others to confirm them
    """

    trusted: bool = False
    vouched: bool = False
    validated: int = 0
    agreeing: int = 0
    confirmed_by_staff: bool = False
    age_seconds: float = 0.0
    streak: int = 0
    returned: int = 0
    unconfirmed: int = 0


def level(policy: StandingPolicy, standing: Standing) -> Level:
    """How much this host's answer counts."""
    if standing.trusted:
        return Level.STAFF
    known = standing.confirmed_by_staff or standing.agreeing >= policy.judge_accounts
    old = standing.age_seconds >= policy.judge_days * DAY
    if standing.streak < 0 or standing.validated < policy.judge_results or not known or not old:
        return Level.NEWCOMER
    return Level.SENIOR if standing.age_seconds >= policy.senior_days * DAY else Level.JUDGE


def believed_cores(policy: StandingPolicy, standing: Standing) -> int | None:
    """Slots that the account is believed to have, over all its hosts; None: what they say."""
    if standing.trusted or standing.vouched:
        return None
    return policy.newcomer_cores + policy.cores_per_result * max(0, standing.validated)


def tasks_in_hand(policy: StandingPolicy, standing: Standing) -> int | None:
    """Tasks that the account may hold, over all its hosts; None: no limit of this kind.

    Who gives back or loses what it holds gets less of it, down to one at a time.
    """
    cores = believed_cores(policy, standing)
    if cores is None:
        return None
    waiting = cores * policy.unconfirmed_max - standing.unconfirmed
    return max(0, min(max(1, cores - standing.returned), waiting))


def is_known(standing: Standing) -> bool:
    """Whether staff or other accounts vouch for it; the watchdog counts only such accounts."""
    return standing.trusted or standing.vouched or standing.validated > 0


def is_established(policy: StandingPolicy, levels: Collection[Level]) -> bool:
    """Whether the project has judges, so that newcomers need not judge. ``levels``: by account."""
    judges = sum(found >= Level.JUDGE for found in levels)
    return judges >= policy.judges_min or Level.STAFF in levels
