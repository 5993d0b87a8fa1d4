"""Which results are computed again on other accounts' hosts, with the same seed, and on whose.

A new host is checked always, one with a long record in about 1 in 50. Who checks is drawn at random
among accounts, each with the same chance whatever it claims, and the replica is sent to a host of
its: so replicas never wait in the open pool, and nobody can arrange to check whom he wants to.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Struct

from axiom_server.decide.standing import Level, StandingPolicy, is_established

WAITING_MAX = 8  # replicas for each believed slot of a host; with more, it is passed over
BROKEN_SHARE_MIN = 0.1  # of a host's compared results: fewer refuted ones are no habit


class ReplicationPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much is checked.

    trusted_after           confirmed results in a row until which all of a host's are checked
    distrust                confirmed results that a mismatch takes from it
    one_in                  results of a host with a long record: one in this many is checked
    mismatches_to_quarantine  of one host, within ``window_days``; a claim of time that cannot have
                            passed counts as one
    hold_hours              how long another host may take to fetch a replica
    tries                   kept for configurations of 0.1.0: a replica that is lost or refused goes
                            to the next account, for as long as there is one
    """

    trusted_after: Annotated[int, Meta(ge=1)] = 10
    distrust: Annotated[int, Meta(ge=0)] = 100
    one_in: Annotated[int, Meta(ge=1)] = 50
    mismatches_to_quarantine: Annotated[int, Meta(ge=1)] = 3
    window_days: Annotated[float, Meta(gt=0)] = 7.0
    hold_hours: Annotated[float, Meta(gt=0)] = 6.0
    tries: Annotated[int, Meta(ge=1)] = 4


@dataclass(frozen=True, kw_only=True)
class Need:
    """A workunit that needs ``count`` more opinions, from none of ``users``.

    users      those who computed it, or were asked to and did not
    addresses  where they joined from: nobody else there is asked
    """

    workunit_id: int
    device: str
    environment: str
    memory_bytes: int
    users: frozenset[int | None]
    addresses: frozenset[str] = frozenset()
    contested: bool = False
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Checker:
    """A host that could check.

    slots    that it is believed to have; they bound what waits for it, and give it no more to check
    live     heard of lately: the others are asked when they are back
    asked    replicas that wait for it already
    rank     drawn at random, so that nobody can arrange whom his results are held against
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
    asked: int = 0
    rank: float = 0.0


def wants_replica(policy: ReplicationPolicy, streak: int, draw: float) -> bool:
    """Whether to check a result. ``draw`` is uniform in [0, 1), and no host can foresee it.

    The share falls with the square of what was confirmed, and only what was checked is: after 270
    results 43 were, and 5 % are. A host that behaves until it is trusted has paid with honest work;
    with a cube, 3 of 100 lies of such hosts still counted three days later.
    """
    if streak < policy.trusted_after:
        return True
    return draw < max(1.0 / policy.one_in, (policy.trusted_after / streak) ** 2)


class Panel:
    """Hosts that can be asked for replicas. ``checkers``: seen in the last days, live or not."""

    def __init__(self, policy: StandingPolicy, checkers: Sequence[Checker]) -> None:
        self.policy = policy
        self.checkers = [checker for checker in checkers if checker.user_id is not None]
        self.established = is_established(policy, _levels(self.checkers).values())
        self._asked = {checker.host_id: checker.asked for checker in checkers}
        self._able: dict[tuple[str, str, int, bool], list[Checker]] = {}

    def able(self, need: Need) -> list[Checker]:
        """The hosts that could be asked, in random order: only judges where there are any."""
        key = (need.device, need.environment, need.memory_bytes, need.contested)
        if key not in self._able:
            fitting = [checker for checker in self.checkers if _fits(need, checker)]
            self._able[key] = sorted(self._entitled(need, fitting), key=lambda c: c.rank)
        return [checker for checker in self._able[key] if _may_check(need, checker)]

    def _entitled(self, need: Need, fitting: Sequence[Checker]) -> Sequence[Checker]:
        """One host for each account; seniors alone settle what is contested, if there are any."""
        ranked = sorted(fitting, key=lambda c: (-c.level, not c.live, self.is_busy(c), c.rank))
        each = list({checker.user_id: checker for checker in reversed(ranked)}.values())
        if not self.established:
            return each
        judges = [checker for checker in each if checker.level >= Level.JUDGE]
        seniors = [checker for checker in judges if checker.level >= Level.SENIOR]
        return (seniors if need.contested and seniors else judges) or each

    def is_busy(self, checker: Checker) -> bool:
        """Whether enough waits for it."""
        return self._asked[checker.host_id] >= WAITING_MAX * max(1, checker.slots)

    def draw(self, need: Need, able: Sequence[Checker], draw: float) -> list[Checker]:
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
                self._asked[checker.host_id] += 1
        return drawn


def place(
    panel: Panel, needs: Sequence[Need], draws: Mapping[int, float]
) -> tuple[list[tuple[Need, int]], list[Need]]:
    """Draw hosts for each need: what was placed, and what nobody known could compute.

    ``draws``: a number in [0, 1) for each workunit. A need whose able hosts are all away or busy is
    in neither list: it waits.
    """
    placed, nowhere = [], []
    for need in sorted(needs, key=lambda n: n.workunit_id):
        able = panel.able(need)
        if not able:
            nowhere.append(need)
        for checker in panel.draw(need, able, draws[need.workunit_id]):
            placed.append((need, checker.host_id))
    return placed, nowhere


def _levels(checkers: Sequence[Checker]) -> dict[int | str | None, Level]:
    """The highest level of each account. An address counts once, however many join from it."""
    levels: dict[int | str | None, Level] = {}
    for checker in checkers:
        key = checker.address or checker.user_id
        levels[key] = max(levels.get(key, Level.NEWCOMER), checker.level)
    return levels


def _fits(need: Need, checker: Checker) -> bool:
    return (
        need.environment in checker.environments
        and need.memory_bytes <= checker.memory_bytes
        and (need.device != "gpu" or checker.gpus > 0)
    )


def _may_check(need: Need, checker: Checker) -> bool:
    at_hand = bool(checker.address) and checker.address in need.addresses
    return checker.user_id not in need.users and not at_hand


def quarantines(policy: ReplicationPolicy, mismatches: int, compared: int) -> bool:
    """Whether a host with so many mismatches, of so many results compared, gets no more work."""
    return (
        mismatches >= policy.mismatches_to_quarantine and mismatches >= BROKEN_SHARE_MIN * compared
    )


def others(user_id: int | None, known_users: Collection[int]) -> bool:
    """Whether anybody but this user has a host in the project."""
    return any(user != user_id for user in known_users)
