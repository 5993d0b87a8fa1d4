"""Stop an experiment that harms the hosts: fails too often, or runs far longer than declared.

In the original project one broken script put every host into back-off. Here it is the experiment
that is stopped, and the hosts are spared any penalty.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

RESULTS_MIN = 10  # fewer say nothing
ERROR_RATE_MAX = 0.10
SLOWER_MAX = 10.0  # times the declared seconds, by the median, at each host's own pace
FASTER_MAX = 1_000.0  # the same the other way: it does nothing; a fast host is no fault


@dataclass(frozen=True, kw_only=True)
class Ended:
    """One recent task of the experiment that ended by itself.

    ratio  elapsed over declared seconds, divided by the host's pace on other experiments
    """

    host_id: int
    fault: bool
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Why an experiment is stopped."""

    kind: str
    message: str


def watch(recent: Sequence[Ended]) -> Alarm | None:
    """Judge the newest tasks of one version (successes and faults, any order)."""
    if len(recent) < RESULTS_MIN:
        return None
    faults = [task for task in recent if task.fault]
    hosts, faulty_hosts = {t.host_id for t in recent}, {t.host_id for t in faults}
    # One host that fails at everything is that host's trouble, unless nobody else tried.
    spread = len(faulty_hosts) > 1 or len(hosts) == 1
    if spread and len(faults) > ERROR_RATE_MAX * len(recent):
        return Alarm(
            kind="error_rate",
            message=f"{len(faults)} of its last {len(recent)} tasks failed, "
            f"on {len(faulty_hosts)} of {len(hosts)} hosts",
        )
    ratios = [task.ratio for task in recent if not task.fault and task.ratio > 0]
    if len(ratios) < RESULTS_MIN:
        return None
    middle = statistics.median(ratios)
    if middle > SLOWER_MAX:
        return Alarm(
            kind="runtime", message=f"it runs {middle:.1f} times as long as its metadata declares"
        )
    if middle < 1 / FASTER_MAX:
        return Alarm(
            kind="runtime", message=f"it runs {1 / middle:.0f} times shorter than declared"
        )
    return None


@dataclass(frozen=True, kw_only=True)
class Twin:
    """Results with the very same numbers under different seeds."""

    seeds: frozenset[int]
    hosts: frozenset[int]
    users: frozenset[int | None]


def same_results(twins: Sequence[Twin], hosts_of_version: int) -> tuple[list[int], Alarm | None]:
    """Who is at fault when different seeds gave the same numbers: hosts, or the experiment.

    One host alone among several is inventing its numbers; several users' hosts, or the only host
    there is, mean that the script ignores its seed.
    """
    suspects: set[int] = set()
    for twin in twins:
        if len(twin.seeds) < 2:
            continue
        if len(twin.hosts) == 1 and hosts_of_version > 1:
            suspects |= twin.hosts
        else:
            seeds = ", ".join(str(seed) for seed in sorted(twin.seeds)[:3])
            return [], Alarm(
                kind="same_result",
                message=f"seeds {seeds} gave the very same numbers: it ignores its seed",
            )
    return sorted(suspects), None
