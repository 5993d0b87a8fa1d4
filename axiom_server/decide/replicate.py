"""Decide which results are computed again with the same seed, and on whose hosts.

Every result of a new host is checked; of a host with a long record, about 1 in 50. The account that
computes the replica is drawn at random, with the same chance for each account whatever hardware it
claims. The replica is reserved for one of its hosts, so replicas never wait in the open pool, and
nobody can choose whose results to check.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Struct

from axiom_server.decide.standing import Level, StandingPolicy, is_established

WAITING_MAX = 8  # replicas queued for each slot that a host is believed to have; then it is skipped
REFUTING_ACCOUNTS_MIN = 3  # accounts that refute a host and outnumber those that confirm it
BROKEN_SHARE_MIN = 0.1  # share of refuted results among the compared, below which a host is not bad


class ReplicationPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much is checked.

    trusted_after           all results of a host are checked until so many in a row are confirmed
    distrust                confirmed results that a host loses by a mismatch
    one_in                  results of a host with a long record: one in this many is checked
    mismatches_to_quarantine  mismatches of one host within ``window_days``; an elapsed time that is
                            not possible counts as one
    hold_hours              how long another host may take to fetch a replica
    tries                   without effect, accepted for configurations of 0.1.0: a replica that is
                            lost or refused goes to the next account, as long as there is one
    """

    trusted_after: Annotated[int, Meta(ge=1)] = 10
    distrust: Annotated[int, Meta(ge=0)] = 100
    one_in: Annotated[int, Meta(ge=1)] = 50
    mismatches_to_quarantine: Annotated[int, Meta(ge=1)] = 3
    window_days: Annotated[float, Meta(gt=0)] = 7.0
    hold_hours: Annotated[float, Meta(gt=0)] = 6.0
    tries: Annotated[int, Meta(ge=1)] = 4


@dataclass(frozen=True, kw_only=True)
class ReplicaNeed:
    """A workunit that needs results from ``count`` further accounts, other than ``users``.

    users      accounts that had a task of the workunit, whether or not they returned a result
    addresses  network addresses from which they joined; no other account from there is drawn
    disputed   whether its results disagree
    """

    workunit_id: int
    device: str
    environment: str
    memory_bytes: int
    users: frozenset[int | None]
    addresses: frozenset[str] = frozenset()
    disputed: bool = False
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Checker:
    """A host that could compute a replica.

    slots    slots that it is believed to have; they limit how many replicas may wait for it, but
             do not raise its chance to be drawn
    live     whether it synced lately, and ever; a host that did not gets replicas once it has
    waiting  replicas that are queued for it already
    rank     a random number, so that nobody can choose against whose results his are compared
    """

    host_id: int
    user_id: int | None
    slots: int
    gpus: int
    memory_bytes: int
    environments: frozenset[str]
    level: Level = Level.NEWCOMER
    address: str = ""
    live: bool = True
    waiting: int = 0
    rank: float = 0.0


def wants_replica(
    policy: ReplicationPolicy, streak: int, draw: float, *, young: bool = False
) -> bool:
    """Whether to check a result. ``draw`` is uniform in [0, 1), and no host can foresee it.

    The share falls with the square of the number of confirmed results, and only checked results are
    confirmed: after 270 results, 43 were checked and the share is 5 %. A host that returns true
    results until it is trusted has paid with honest work. With a cube instead of the square, 3 of
    100 false results of such hosts still counted after three days. For ``young`` accounts the share
    falls with the number itself: after 270 results, 73 were checked and the share is 14 %. With the
    square, 7 of 100 false results of accounts of four days still counted after a day and a half.
    """
    if streak < policy.trusted_after:
        return True
    share = policy.trusted_after / streak
    return draw < max(1.0 / policy.one_in, share if young else share**2)


class Panel:
    """Hosts that can compute replicas.

    checkers     hosts seen in the last days, live or not
    complete     whether these are all; otherwise they are those of accounts chosen at random
    every_judge  whether every account that may judge is among them
    """

    def __init__(
        self, policy: StandingPolicy, checkers: Sequence[Checker], *, complete: bool = True,
        every_judge: bool = True,
    ) -> None:  # fmt: skip
        self.policy = policy
        self.complete = complete
        self.every_judge = every_judge
        self.checkers = [checker for checker in checkers if checker.user_id is not None]
        self.established = is_established(policy, _levels(self.checkers).values())
        self._waiting = {checker.host_id: checker.waiting for checker in checkers}
        self._able: dict[tuple[str, str, int, bool], list[Checker]] = {}

    @property
    def is_enough(self) -> bool:
        """Whether hosts are drawn by the same rules, and with the same chances, as among all hosts.

        Newcomers judge only if the project has too few judges; then all accounts must have the same
        chance, but judges are too many in a part of the accounts. Young judges settle disputes and
        make most checks only if the project has no seniors.
        """
        seniors = any(checker.level >= Level.SENIOR for checker in self.checkers)
        return self.complete or (self.established and (self.every_judge or seniors))

    def able(self, need: ReplicaNeed) -> list[Checker]:
        """The hosts that may compute the replica, in random order; only judges if there are any."""
        key = (need.device, need.environment, need.memory_bytes, need.disputed)
        if key not in self._able:
            fitting = [checker for checker in self.checkers if _fits(need, checker)]
            self._able[key] = sorted(self._entitled(need, fitting), key=lambda c: c.rank)
        return [checker for checker in self._able[key] if _may_check(need, checker)]

    def _entitled(self, need: ReplicaNeed, fitting: Sequence[Checker]) -> Sequence[Checker]:
        """One host for each account. If there are seniors, only they settle disputes."""
        ranked = sorted(fitting, key=lambda c: (-c.level, not c.live, self.is_busy(c), c.rank))
        each = list({checker.user_id: checker for checker in reversed(ranked)}.values())
        if not self.established:
            return each
        judges = [checker for checker in each if checker.level >= Level.JUDGE]
        seniors = [checker for checker in judges if checker.level >= Level.SENIOR]
        return (seniors if need.disputed and seniors else judges) or each

    def is_busy(self, checker: Checker) -> bool:
        """Whether as many replicas wait for the host as may."""
        return self._waiting[checker.host_id] >= WAITING_MAX * max(1, checker.slots)

    def draw(self, need: ReplicaNeed, able: Sequence[Checker], draw: float) -> list[Checker]:
        """Hosts of different accounts and addresses, each account with the same chance."""
        seniors = [checker for checker in able if checker.level >= Level.SENIOR]
        from_seniors = seniors and (draw * 1e6) % 1.0 >= self.policy.young_share
        pool = seniors if from_seniors else able
        start = int(draw * len(pool))
        drawn: list[Checker] = []
        for checker in (*pool[start:], *pool[:start]):
            if len(drawn) == need.count:
                break
            same = any(c.address and c.address == checker.address for c in drawn)
            if checker.live and not same and not self.is_busy(checker):
                drawn.append(checker)
                self._waiting[checker.host_id] += 1
        return drawn


def place(
    panel: Panel, needs: Sequence[ReplicaNeed], draws: Mapping[int, float]
) -> tuple[list[tuple[ReplicaNeed, int]], list[ReplicaNeed]]:
    """Draw hosts for each need. Returns (need, host) pairs, and the needs that no host can compute.

    ``draws``: a number in [0, 1) for each workunit. A need whose able hosts are all away or busy is
    in neither list: it waits.
    """
    placed, unplaceable = [], []
    for need in sorted(needs, key=lambda n: n.workunit_id):
        able = panel.able(need)
        if not able:
            unplaceable.append(need)
        for checker in panel.draw(need, able, draws[need.workunit_id]):
            placed.append((need, checker.host_id))
    return placed, unplaceable


def _levels(checkers: Sequence[Checker]) -> dict[int | str | None, Level]:
    """The highest level of each account. Accounts that joined from one address count as one."""
    levels: dict[int | str | None, Level] = {}
    for checker in checkers:
        key = checker.address or checker.user_id
        levels[key] = max(levels.get(key, Level.NEWCOMER), checker.level)
    return levels


def _fits(need: ReplicaNeed, checker: Checker) -> bool:
    return (
        need.environment in checker.environments
        and need.memory_bytes <= checker.memory_bytes
        and (need.device != "gpu" or checker.gpus > 0)
    )


def _may_check(need: ReplicaNeed, checker: Checker) -> bool:
    same_address = bool(checker.address) and checker.address in need.addresses
    return checker.user_id not in need.users and not same_address


def quarantines(
    policy: ReplicationPolicy, mismatches: int, compared: int, *,
    refuted_by: int = 0, confirmed_by: int = 0,
) -> bool:  # fmt: skip
    """Whether a host with so many mismatches, of so many compared results, is quarantined.

    Accounts that confirm each other could keep the share of mismatches low. So a host is also
    quarantined if more accounts refute its results than confirm them.
    """
    opposed = refuted_by >= REFUTING_ACCOUNTS_MIN and refuted_by > confirmed_by
    often = mismatches >= BROKEN_SHARE_MIN * compared
    return mismatches >= policy.mismatches_to_quarantine and (often or opposed)


def has_other_users(user_id: int | None, known_users: Collection[int]) -> bool:
    """Whether any other user has a host in the project."""
    return any(user != user_id for user in known_users)
