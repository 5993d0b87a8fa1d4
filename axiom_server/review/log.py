"""The data of a session log: credit, deployments, findings, alarms and next steps."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct


class TierLine(Struct, frozen=True, kw_only=True):
    """One tier of elapsed time. ``below_seconds`` is None for the last."""

    min_elapsed_seconds: float
    below_seconds: float | None
    credit_each: float
    results: int
    credit: float


class UserCredit(Struct, frozen=True, kw_only=True):
    """Credit of one user, and the hosts that earned it."""

    name: str
    credit: float
    results: int
    hosts: list[int]


class HostWork(Struct, frozen=True, kw_only=True):
    """Workunits deployed to one host, by device."""

    host_id: int
    name: str
    user: str
    cpu: int
    gpu: int


class ExperimentWork(Struct, frozen=True, kw_only=True):
    """Workunits deployed of one experiment version."""

    name: str
    version: str
    title: str
    workunits: int
    new: bool


class NewExperiment(Struct, frozen=True, kw_only=True):
    """An experiment deployed for the first time. ``tried``: the dry run's result and seconds."""

    name: str
    title: str
    question: str
    rationale: list[str]
    sweep: list[str]
    tried: dict[str, Any] | None


class BetweenHostsLine(Struct, frozen=True, kw_only=True):
    """The variance between hosts in excess of that between seeds; see `anytime.between_hosts`."""

    hosts: int
    mean: float
    low: float
    high: float
    sd: float
    p: float
    detectable_sd: float


class FindingLine(Struct, frozen=True, kw_only=True):
    """A finding with its verdict and numbers; see axiom_protocol/verdicts/findings.py.

    Fields with a default are missing in records of sessions that used an earlier rule.
    """

    experiment: str
    name: str
    claim: str
    verdict: str
    reason: str
    seeds: int
    hosts: int
    estimate: float | None
    low: float | None
    high: float | None
    effect_size: float | None
    meeting: int
    sign_share: float | None
    sign_p: float | None
    heterogeneity_p: float | None
    between_hosts: BetweenHostsLine | None = None
    log_e_for: float | None = None
    log_e_against: float | None = None
    missing: dict[str, int] | None = None
    out: int = 0
    pending: int = 0
    verdict_with_pending: str | None = None
    fixed_verdict: str | None = None


class SessionLog(Struct, frozen=True, kw_only=True):
    """Everything that a log shows. ``opened``: whether the review opened a new session."""

    project: str
    session: int | None
    at: datetime | None
    opened: bool
    results: int
    credit: float
    tiers: list[TierLine]
    users: list[UserCredit]
    by_experiment: dict[str, int]
    unpaid: dict[str, int]  # reports without credit, by outcome, "refused" or "no work"
    pending: int  # reported results that wait for a replica on another host
    deployed: list[ExperimentWork]
    deployed_to: list[HostWork]
    deployed_to_pool: int
    deployed_since: int | None  # the session whose deployments are shown, if not this one
    new_experiments: list[NewExperiment]
    findings: list[FindingLine]
    alarms: list[str]
    next_steps: list[str]
    seeds: list[str] = []  # one line for each seed budget: seeds issued and saved
    unlisted_hosts: int = 0  # that work was deployed to, and that deployed_to leaves out

    @property
    def workunits(self) -> int:
        """Total number of workunits deployed."""
        return sum(e.workunits for e in self.deployed)


def as_json(log: SessionLog) -> dict[str, Any]:
    """The log as JSON values: users by name, hosts by id."""
    return {
        "project": log.project,
        "session": log.session,
        "at": log.at,
        "opened": log.opened,
        "results": log.results,
        "credit": number(log.credit),
        "tiers": [
            {
                "min_elapsed_seconds": number(tier.min_elapsed_seconds),
                "credit_each": number(tier.credit_each),
                "results": tier.results,
                "credit": number(tier.credit),
            }
            for tier in log.tiers
        ],
        "users": {user.name: number(user.credit) for user in log.users},
        "user_hosts": {user.name: user.hosts for user in log.users},
        "experiments": log.by_experiment,
        "unpaid": log.unpaid,
        "pending": log.pending,
        "deployed": {
            "workunits": log.workunits,
            "since_session": log.deployed_since,
            "pool": log.deployed_to_pool,
            "experiments": log.deployed,
            "hosts": {
                str(host.host_id): {
                    "name": host.name, "user": host.user, "cpu": host.cpu, "gpu": host.gpu
                }
                for host in log.deployed_to
            },
        },
        "new_experiments": log.new_experiments,
        "findings": log.findings,
        "seeds": log.seeds,
        "alarms": log.alarms,
        "next_steps": log.next_steps,
    }  # fmt: skip


def number(value: float) -> int | float:
    """An int when the value is whole, else a float of three decimals."""
    return int(value) if value == int(value) else round(value, 3)
