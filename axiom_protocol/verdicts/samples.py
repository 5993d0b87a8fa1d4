"""Which results a finding is judged by: one a seed, of the seeds that were issued for it.

Configurations inside a run are not independent, and replicas of one seed are one sample, so neither
is ever counted. A seed that was issued is in the denominator whatever became of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from axiom_protocol.agreement import disagreements
from axiom_protocol.manifest import Field, Finding, Manifest
from axiom_protocol.result import Result

PROBES = 8  # seeds whose whole results are held against each other

#: out: its first host has it, or will; late: it went out again, or waits for a host for too long;
#: failed: given up after its last attempt; lost: nobody computes it any more; reported.
SeedState = Literal["out", "late", "failed", "lost", "reported"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One gated result. ``parameters`` are complete: defaults overlaid with what was given.

    settled  whether it stands: its host is trusted, or another host agrees
    """

    task_id: int
    seed: int
    host_id: int
    parameters: Mapping[str, Any]
    result: Result
    settled: bool = True


@dataclass(frozen=True, kw_only=True)
class IssuedSeed:
    """One planned seed. ``batch`` counts up in the order in which batches were planned."""

    seed: int
    parameters: Mapping[str, Any]
    batch: int
    state: SeedState


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What is judged: the results of the seeds of all batches up to the first that is out.

    samples  one a seed, valid, with a number for the finding, beside ``values``
    ran      seeds with a result that stands, passing the experiment's gates or not
    passed   of those, seeds that pass
    missing  seeds without one, by what became of them; "pending": reported, and not settled;
             "undefined": the finding's number does not exist
    out      planned seeds of the batches that are not complete yet; they are not judged
    early    the first batch is not complete: what it gave so far is shown, and not judged
    """

    samples: Sequence[Sample]
    values: Sequence[float]
    ran: int
    passed: int
    missing: Mapping[str, int]
    out: int
    early: bool = False


def count(
    manifest: Manifest,
    finding: Finding,
    samples: Sequence[Sample],
    issued: Sequence[IssuedSeed] | None,
    *,
    unsettled_too: bool = False,
) -> Counted:
    """The numbers of a finding. ``issued`` None: exactly the seeds that have a result.

    ``unsettled_too`` is for what pending results would change.
    """
    where = manifest.resolve(finding.where)
    mine = [s for s in samples if dict(s.parameters) == where]
    states, out = planned(where, mine, issued)
    early = bool(out) and not states
    if early:
        states = dict.fromkeys((s.seed for s in mine), "reported")
    stand = [s for s in mine if s.seed in states and (s.settled or unsettled_too)]
    every = one_per_seed(stand)
    passed = one_per_seed([s for s in stand if s.result["valid"] == 1])
    found = [(s, v) for s in passed if (v := value_of(finding, s.result)) is not None]
    missing: dict[str, int] = {}
    for seed in sorted(states.keys() - {s.seed for s in every}):
        state = "pending" if states[seed] == "reported" else states[seed]
        missing[state] = missing.get(state, 0) + 1
    if len(passed) > len(found):
        missing["undefined"] = len(passed) - len(found)
    return Counted(
        samples=[s for s, _ in found], values=[v for _, v in found], ran=len(every),
        passed=len(passed), missing=missing, out=out, early=early,
    )  # fmt: skip


def planned(
    where: Mapping[str, Any], mine: Sequence[Sample], issued: Sequence[IssuedSeed] | None
) -> tuple[dict[int, SeedState], int]:
    """The seeds to be judged with their states, and how many are out.

    Batches are taken in order up to the first that is out, so that no batch is judged early
    because its quick seeds favour the claim.
    """
    if issued is None:
        return dict.fromkeys((s.seed for s in mine), "reported"), 0
    asked = [i for i in issued if dict(i.parameters) == where]
    first_out = min((i.batch for i in asked if i.state == "out"), default=None)
    complete = [i for i in asked if first_out is None or i.batch < first_out]
    states: dict[int, SeedState] = {}
    for seed in sorted(complete, key=lambda i: (i.state == "reported", -i.batch)):
        states[seed.seed] = seed.state  # of a seed issued twice: what was reported
    out = sum(1 for i in asked if i.state == "out")
    return states, out


def one_per_seed(samples: Sequence[Sample]) -> list[Sample]:
    """The first task's result of each seed, in the order of seeds; settled ones come first."""
    first: dict[int, Sample] = {}
    for sample in sorted(samples, key=lambda s: (not s.settled, s.task_id)):
        first.setdefault(sample.seed, sample)
    return [first[seed] for seed in sorted(first)]


def value_of(finding: Finding, result: Result) -> float | None:
    """The seed's one number, or None where a ratio has no denominator."""
    value = float(result[finding.field])
    if finding.control is None:
        return value
    control = float(result[finding.control])
    if finding.statistic == "difference":
        return value - control
    return value / control if control != 0 else None


def is_seed_ignored(manifest: Manifest, probes: Sequence[Result]) -> bool:
    """Do whole results of different seeds agree like replicas of one, most of them?

    A script that draws everything from one fixed seed gives any number of hosts one sample, and an
    interval of no width. Results without a single number that could differ are not held against it.
    """
    if len(probes) < 2 or not _has_numbers(manifest.result.values()):
        return False
    distinct: list[Result] = []
    for probe in probes:
        if all(disagreements(manifest, probe, other, limit=1) for other in distinct):
            distinct.append(probe)
    return 2 * len(distinct) <= len(probes)


def _has_numbers(fields: Iterable[Field]) -> bool:
    return any(
        not f.chaotic and (f.kind == "number" or _has_numbers(f.fields.values())) for f in fields
    )
