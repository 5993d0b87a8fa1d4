"""Selects the results that a finding is judged by: one for each seed that was issued for it.

Configurations inside a run are not independent, and replicas of one seed are one sample, so neither
counts as a sample of its own. Every issued seed is in the denominator, whether it gave a result or
not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from axiom_protocol.agreement import disagreements
from axiom_protocol.manifest import Field, Finding, Manifest
from axiom_protocol.result import Result

PROBES = 8  # seeds whose whole results are compared with each other

#: out: queued or with its first host; late: handed out again, or queued for too long; failed: given
#: up after its last attempt; lost: no longer computed by any host; reported: a result has come.
SeedState = Literal["out", "late", "failed", "lost", "reported"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One result that passed the gate. ``parameters`` are complete, defaults included.

    settled  its host is trusted, or another host agrees
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
    """The results that are judged: of the seeds of all batches before the first incomplete one.

    samples  one for each seed: valid, and with a number for the finding, which is in ``values``
    ran      number of seeds with a settled result, whether it passes the experiment's gates or not
    passed   of those, the seeds that pass
    missing  numbers of seeds without one, by their state; "pending": reported but not settled;
             "undefined": the finding's number does not exist
    out      planned seeds of the batches that are not complete yet; they are not judged
    early    the first batch is not complete: its results so far are shown but not judged
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

    unsettled_too  count pending results too, to show what they would change
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

    Batches are judged in order and only when complete; otherwise a batch could be judged early
    because its quick seeds favour the claim.
    """
    if issued is None:
        return dict.fromkeys((s.seed for s in mine), "reported"), 0
    asked = [i for i in issued if dict(i.parameters) == where]
    first_out = min((i.batch for i in asked if i.state == "out"), default=None)
    complete = [i for i in asked if first_out is None or i.batch < first_out]
    states: dict[int, SeedState] = {}
    for seed in sorted(complete, key=lambda i: (i.state == "reported", -i.batch)):
        states[seed.seed] = seed.state  # "reported" comes last: it holds for a seed issued twice
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
    """Whether most whole results of different seeds agree as replicas of one seed would.

    A script that draws everything from one fixed seed gives one sample on any number of hosts, and
    an interval of width zero. False for results without any number that could differ.
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
