"""The standing of accounts: whose results may confirm others', and how many tasks one may hold.

An account earns standing by confirmed results, by the number of accounts that confirmed them, and
by age. What a host reports about itself (its cores, its memory) can only lower what it gets. Staff
can provide a reference by trusting hosts of their own. Without them, accounts judge each other
until enough of them have standing.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from msgspec import Meta, Struct

DAY = 86400.0
#: An account that has given back, lost or failed as many tasks as its believed cores waits before
#: its next task, each time twice as long; otherwise a few accounts could use up all attempts of
#: every workunit.
PAUSE_FIRST_SECONDS, PAUSE_MAX_SECONDS = 60.0, 3600.0


class StandingPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The conditions of standing.

    newcomer_hosts     hosts of a new account that may join or send a sync within a week; one more
                       for each confirmed result
    newcomer_cores     cores that a new account is believed to have, over all its hosts
    unconfirmed_max    results that may wait for confirmation, for each believed core, so that many
                       new accounts cannot fill the judges' hosts with replicas
    cores_per_result   cores that each confirmed result adds: 240 cores after 116 results
    judge_results      confirmed results that an account needs to judge others
    judge_accounts     other accounts that must have confirmed them, unless a trusted host did
    judge_days         age of the account at which it may judge, so that accounts that join
                       together cannot judge on the same day
    senior_days        age at which a judge may also settle disputes of younger judges
    judges_min         number of judges from which on newcomers no longer judge
    young_share        share of the checks that judges younger than ``senior_days`` make together
    """

    newcomer_hosts: Annotated[int, Meta(ge=1)] = 200
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
    """How much an account's results count: of several levels, only the highest decides."""

    NEWCOMER = 0
    JUDGE = 1
    SENIOR = 2
    STAFF = 3


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is known of a host and its account.

    trusted      staff trust the host: its results are taken as correct
    vouched      staff vouch for the account: its cores are believed, but it does not judge yet
    validated    number of confirmed results; ``agreeing``: number of accounts that confirmed them
    streak       confirmed results of the host in a row; negative after one was refuted
    returned     tasks that ended without a result, less those that succeeded since
    since_return_seconds  time since the last task that ended without a result
    unconfirmed  results that wait for confirmation
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
    since_return_seconds: float = math.inf


def level(policy: StandingPolicy, standing: Standing) -> Level:
    """How much this host's results count."""
    if standing.trusted:
        return Level.STAFF
    known = standing.confirmed_by_staff or standing.agreeing >= policy.judge_accounts
    old = standing.age_seconds >= policy.judge_days * DAY
    if standing.streak < 0 or standing.validated < policy.judge_results or not known or not old:
        return Level.NEWCOMER
    return Level.SENIOR if standing.age_seconds >= policy.senior_days * DAY else Level.JUDGE


def believed_cores(policy: StandingPolicy, standing: Standing) -> int | None:
    """Slots that the account is believed to have, over all its hosts; None: as they report."""
    if standing.trusted or standing.vouched:
        return None
    return policy.newcomer_cores + policy.cores_per_result * max(0, standing.validated)


def tasks_in_hand(policy: StandingPolicy, standing: Standing) -> int | None:
    """Tasks that the account may hold, over all its hosts; None: no limit.

    Each task that it gives back, loses or fails lowers the number, down to one at a time; after
    that, the account waits longer each time for its next task.
    """
    cores = believed_cores(policy, standing)
    if cores is None:
        return None
    if standing.since_return_seconds < pause_seconds(cores, standing.returned):
        return 0
    waiting = cores * policy.unconfirmed_max - standing.unconfirmed
    return max(0, min(max(1, cores - standing.returned), waiting))


def pause_seconds(cores: int, returned: int) -> float:
    """How long an account waits for its next task after ``returned`` tasks without a result."""
    beyond = returned - cores
    return (
        0.0 if beyond < 0 else min(PAUSE_MAX_SECONDS, PAUSE_FIRST_SECONDS * 2.0 ** min(beyond, 9))
    )


def is_young(policy: StandingPolicy, standing: Standing) -> bool:
    """Whether the account is too new to be a senior, so that it is checked more often."""
    return not standing.trusted and standing.age_seconds < policy.senior_days * DAY


def is_known(standing: Standing) -> bool:
    """Whether staff or other accounts vouch for it; the watchdog counts only such accounts."""
    return standing.trusted or standing.vouched or standing.validated > 0


def is_established(policy: StandingPolicy, levels: Collection[Level]) -> bool:
    """Whether there are enough judges, so that newcomers need not judge. ``levels``: by account."""
    judges = sum(found >= Level.JUDGE for found in levels)
    return judges >= policy.judges_min or Level.STAFF in levels
