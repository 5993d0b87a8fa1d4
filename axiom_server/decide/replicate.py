"""Which results are computed again on another user's host, with the same seed, and where.

A new host is checked always, a trusted one in about 1 in 50. The second host is chosen here, among
live hosts of other users, and the workunit is sent to it: so replicas never wait in the open pool,
and never reach the same user. Where no other user has a live host that fits, the result stands on
its gate alone; it is credited, and marked as unreplicated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Annotated

from msgspec import Meta, Struct


class ReplicationPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much is checked.

    trusted_after           agreements in a row that make a host trusted
    distrust                agreements that a mismatch takes from it: so many more are checked
    one_in                  results of a trusted host: one in this many is checked
    mismatches_to_quarantine  of one host, within ``window_days``; a claim of time that cannot have
                            passed counts as one
    hold_hours              how long the second host may take to fetch a replica
    tries                   hosts that are asked before the result stands alone
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
    """A workunit that needs another opinion, from none of ``users``."""

    workunit_id: int
    device: str
    environment: str
    memory_bytes: int
    users: frozenset[int | None]
    purpose: str = "replica"


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """A live host that could give one.

    asked  what waits for it already
    rank   drawn at random, so that nobody can arrange whom his results are held against
    """

    host_id: int
    user_id: int | None
    slots: int
    gpus: int
    memory_bytes: int
    environments: frozenset[str]
    trusted: bool
    asked: int = 0
    rank: float = 0.0


def wants_replica(policy: ReplicationPolicy, agreements: int, draw: float) -> bool:
    """Whether to check a result. ``draw`` is uniform in [0, 1), and no host can foresee it."""
    return agreements < policy.trusted_after or draw * policy.one_in < 1.0


def place(
    needs: Sequence[Need], hosts: Sequence[Opinion]
) -> tuple[list[tuple[Need, int]], list[Need]]:
    """Send each need to the least loaded fitting host; and what fits nowhere.

    Of equally loaded hosts a trusted one comes first; for a tiebreak, before less loaded ones too.
    """
    asked = {host.host_id: host.asked for host in hosts}
    queues: dict[tuple[str, str, int, bool], list[_Place]] = {}
    placed, nowhere = [], []
    for need in sorted(needs, key=lambda n: (n.workunit_id, n.purpose)):
        tiebreak = need.purpose == "tiebreak"
        key = (need.device, need.environment, need.memory_bytes, tiebreak)
        if key not in queues:
            queues[key] = [(_order(h, asked, tiebreak), h) for h in hosts if _able(need, h)]
            heapify(queues[key])
        chosen = _next(queues[key], need, asked, tiebreak)
        if chosen is None:
            nowhere.append(need)
            continue
        asked[chosen.host_id] += 1
        placed.append((need, chosen.host_id))
    return placed, nowhere


_Order = tuple[bool, int, bool, float, float, int]
_Place = tuple[_Order, Opinion]


def _order(host: Opinion, asked: Mapping[int, int], tiebreak: bool) -> _Order:
    slots, load = max(1, host.slots), asked[host.host_id]
    return (
        tiebreak and not host.trusted, load // slots, not host.trusted, load / slots, host.rank,
        host.host_id,
    )  # fmt: skip


def _next(
    queue: list[_Place], need: Need, asked: Mapping[int, int], tiebreak: bool
) -> Opinion | None:
    """The first host of another user; loads that grew since they were queued are put right."""
    passed: list[_Place] = []
    chosen = None
    while queue and chosen is None:
        order, host = heappop(queue)
        now = _order(host, asked, tiebreak)
        if now != order:
            heappush(queue, (now, host))
            continue
        passed.append((order, host))
        if host.user_id not in need.users:
            chosen = host
    for place in passed:
        heappush(queue, place)
    return chosen


def _able(need: Need, host: Opinion) -> bool:
    """Whether a host could compute it, whoever's it is."""
    return (
        host.user_id is not None
        and need.environment in host.environments
        and need.memory_bytes <= host.memory_bytes
        and (need.device != "gpu" or host.gpus > 0)
    )


def quarantines(policy: ReplicationPolicy, mismatches: int) -> bool:
    """Whether a host with this many mismatches in the window is kept from further work."""
    return mismatches >= policy.mismatches_to_quarantine


def others(user_id: int | None, live_users: Collection[int]) -> bool:
    """Whether anybody but this user has a live host."""
    return any(user != user_id for user in live_users)
