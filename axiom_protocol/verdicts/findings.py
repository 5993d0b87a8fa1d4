"""Judges claims that were declared before the data, from one number for each of many seeds.

A verdict may be computed at any time, any number of times, for any number of findings. Of those
that are decided together at most 5 % are expected to be false (``evidence``, ``anytime``). Each
verdict comes with the 95 % confidence sequence, sign consistency by the exact binomial test, the
difference between hosts, and the verdict by the rule of 0.1.0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np
import scipy  # loads its parts when they are used

from axiom_protocol import text
from axiom_protocol.agreement import is_compared
from axiom_protocol.manifest import Finding, Manifest
from axiom_protocol.verdicts import evidence
from axiom_protocol.verdicts.anytime import share
from axiom_protocol.verdicts.anytime.between_hosts import BetweenHosts, compare
from axiom_protocol.verdicts.anytime.discoveries import discoveries
from axiom_protocol.verdicts.evidence import ALPHA, Evidence
from axiom_protocol.verdicts.fixed_rule import FixedVerdict, fixed_verdict
from axiom_protocol.verdicts.samples import Counted, IssuedSeed, Sample, count

#: rejected: the mean fails; fails seed by seed: too few seeds meet the criterion one by one.
Verdict = Literal["confirmed", "rejected", "fails seed by seed", "preliminary", "insufficient"]

#: Decided by evidence alone; a verdict also depends on the number of seeds, their gates and hosts.
Decision = Literal["confirmed", "rejected", "fails seed by seed", "open"]

SEEDS_MIN = 5  # fewer: no verdict
PASSING_SHARE_MIN = 0.5  # of seeds, through the experiment's own gates; else they are a selection
HETEROGENEOUS_P = (
    0.001  # below it hosts differ by more than their seeds do, so there is another cause
)
DECIDED_LOG_E = math.log(2 / ALPHA)  # of one finding alone
SEEDS_AHEAD = 2_000  # largest number of further seeds that is considered for a verdict


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """A finding with its numbers.

    seeds               different seeds with a valid, settled result
    estimate, low, high the statistic's mean and its 95 % confidence sequence; None when unknown
    effect_size         paired: mean over standard deviation of (value - no effect)
    meeting             seeds that meet the criterion one by one
    sign_share, sign_p  seeds on the mean's side of "no effect", and its exact two-sided p
    heterogeneity_p     of the hypothesis that hosts do not differ
    between_hosts       the random-effects estimate
    log_e_for, _against logs of the e-values for and against the claim
    missing             numbers of issued seeds without a value, by reason
    out                 planned seeds of batches that are not complete; not judged yet
    pending             results that wait for a replica; ``verdict_with_pending``: the verdict if
                        they count
    fixed_verdict       the verdict on the same seeds by the rule of 0.1.0
    """

    name: str
    claim: str
    verdict: Verdict
    reason: str
    seeds: int
    hosts: int
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    effect_size: float | None = None
    meeting: int = 0
    sign_share: float | None = None
    sign_p: float | None = None
    heterogeneity_p: float | None = None
    between_hosts: BetweenHosts | None = None
    log_e_for: float | None = None
    log_e_against: float | None = None
    missing: dict[str, int] | None = None
    out: int = 0
    pending: int = 0
    verdict_with_pending: Verdict | None = None
    fixed_verdict: FixedVerdict = "insufficient"


@dataclass(frozen=True, kw_only=True)
class _Weighed:
    """One finding's seeds and evidence, before all findings are decided together."""

    finding: Finding
    counted: Counted
    values: np.ndarray
    evidence: Evidence
    between: BetweenHosts | None
    held: str  # why no verdict may be given, whatever the evidence; empty: it may
    too_few: bool


@dataclass(frozen=True, kw_only=True)
class Study:
    """A version's findings with all that is known of its seeds.

    samples       results; may include replicas, invalid runs, unsettled results, other parameters
    issued        every seed that was planned; None: those of the samples
    seed_ignored  the result of ``is_seed_ignored``; if true, all runs are one sample
    findings      those to be judged; None: all
    """

    manifest: Manifest
    samples: Sequence[Sample]
    issued: Sequence[IssuedSeed] | None = None
    seed_ignored: bool = False
    findings: Sequence[Finding] | None = None

    def weigh(self, *, unsettled_too: bool) -> list[_Weighed]:
        """The evidence of each finding, in the order of the findings."""
        asked = self.manifest.findings if self.findings is None else self.findings
        return [_weigh(self, f, unsettled_too) for f in asked]


def judge(
    manifest: Manifest,
    finding: Finding,
    samples: Sequence[Sample],
    *,
    issued: Sequence[IssuedSeed] | None = None,
    seed_ignored: bool = False,
) -> Verdicts:
    """The verdict on one finding by itself, as if there were no other; see ``judge_together``."""
    study = Study(
        manifest=manifest, samples=samples, issued=issued, seed_ignored=seed_ignored,
        findings=[finding],
    )  # fmt: skip
    return judge_together([study])[0][0]


def judge_together(
    studies: Sequence[Study], others: Sequence[Evidence] = ()
) -> list[list[Verdicts]]:
    """The verdicts on the findings of several versions, decided together by e-BH, by version.

    others  evidence of further findings that are decided together with these
    """
    weighed = [(s.manifest, w) for s in studies for w in s.weigh(unsettled_too=False)]
    now = _decided([w for _, w in weighed], others)
    pending = [w.counted.missing.get("pending", 0) for _, w in weighed]
    then = now
    if any(pending):
        then = _decided([w for s in studies for w in s.weigh(unsettled_too=True)], others)
    verdicts = iter(
        _verdicts(manifest, w, verdict, reason, waiting, changed)
        for (manifest, w), (verdict, reason), (changed, _), waiting in zip(
            weighed, now, then, pending, strict=True
        )
    )
    sizes = [len(s.manifest.findings if s.findings is None else s.findings) for s in studies]
    return [list(islice(verdicts, size)) for size in sizes]


def _decided(weighed: Sequence[_Weighed], others: Sequence[Evidence]) -> list[tuple[Verdict, str]]:
    decisions = decide([*(w.evidence for w in weighed), *others])[: len(weighed)]
    return [_verdict(w, d) for w, d in zip(weighed, decisions, strict=True)]


def _weigh(study: Study, finding: Finding, unsettled_too: bool) -> _Weighed:
    manifest, seed_ignored = study.manifest, study.seed_ignored
    counted = count(manifest, finding, study.samples, study.issued, unsettled_too=unsettled_too)
    values = np.array(counted.values, dtype=float)
    hosts = [s.host_id for s in counted.samples]
    groups: dict[int, list[float]] = {}
    for host, value in zip(hosts, counted.values, strict=True):
        groups.setdefault(host, []).append(value)
    between = compare(groups, ALPHA, HETEROGENEOUS_P)
    too_few = len(values) < SEEDS_MIN or seed_ignored
    missing = sum(counted.missing.values())
    weighed = evidence.NOTHING if too_few else evidence.weigh(manifest, finding, values, missing)
    return _Weighed(
        finding=finding, counted=counted, values=values, evidence=weighed, between=between,
        held=_held(counted, between, seed_ignored) or uncompared(manifest, finding),
        too_few=too_few,
    )  # fmt: skip


def _held(counted: Counted, between: BetweenHosts | None, seed_ignored: bool) -> str:
    """Why no verdict may be given, for reasons that the evidence does not cover; else ""."""
    if seed_ignored:
        return "different seeds give the same numbers, so all runs are one sample"
    if counted.early:
        out = text.counted(counted.out, "seed")
        return f"{out} of the planned batch {_are(counted.out)} not reported yet"
    missing = SEEDS_MIN - len(counted.values)
    if missing > 0:
        return f"a verdict needs {text.counted(missing, 'more seed')}"
    if counted.passed < PASSING_SHARE_MIN * counted.ran:
        return f"only {counted.passed} of {counted.ran} seeds pass the experiment's own gates"
    if between is not None and between.p < HETEROGENEOUS_P:
        return (
            f"hosts differ by more than chance (p = {between.p:.1g}, sd {between.sd:.3g} between "
            f"hosts)"
        )
    return ""


def uncompared(manifest: Manifest, finding: Finding) -> str:
    """Why no verdict may rest on the finding's fields, or "": replication must compare them."""
    for name in filter(None, (finding.field, finding.control)):
        if not is_compared(manifest.result[name], read_by_finding=True):
            return f"replication does not compare {name}: it is chaotic without a tolerance"
    return ""


def decide(found: Sequence[Evidence]) -> list[Decision]:
    """The decisions on all findings together; at most 5 % of them are expected to be false."""
    confirmed = discoveries([e.confirming for e in found], ALPHA / 2)
    refuted = discoveries([e.refuting for e in found], ALPHA / 2)
    return [_decision(*each) for each in zip(found, confirmed, refuted, strict=True)]


def _decision(found: Evidence, confirmed: bool, refuted: bool) -> Decision:
    if refuted:
        by_mean = found.mean_against >= found.share_against
        return "rejected" if by_mean else "fails seed by seed"
    return "confirmed" if confirmed else "open"


def _verdict(weighed: _Weighed, decision: Decision) -> tuple[Verdict, str]:
    """The verdict with its reason. A finding that is held was decided together with the others."""
    if weighed.too_few:
        return "insufficient", weighed.held
    if weighed.held:
        return "preliminary", weighed.held
    meeting, seeds = evidence.meeting(weighed.finding, weighed.values), len(weighed.values)
    if decision == "rejected":
        return "rejected", "the mean fails the criterion"
    if decision == "fails seed by seed":
        return "fails seed by seed", (
            f"fails seed by seed: {meeting} of {seeds} seeds meet the criterion, "
            f"{weighed.finding.min_share:g} of all are claimed"
        )
    if decision == "confirmed":
        return "confirmed", f"the mean meets the criterion, and so do {meeting} of {seeds} seeds"
    return "preliminary", _what_is_missing(weighed, meeting)


def _what_is_missing(weighed: _Weighed, meeting: int) -> str:
    """Which half of the claim is not decided yet, and how many seeds would decide it."""
    found, finding = weighed.evidence, weighed.finding
    seeds = len(weighed.values) + sum(weighed.counted.missing.values())
    if min(found.mean_for, found.share_for) >= DECIDED_LOG_E:
        return "decided by itself, but not yet together with the project's other findings"
    if found.share_for >= DECIDED_LOG_E:
        return "the mean is not decided yet"
    more = seeds_needed(meeting, seeds, finding.min_share)
    ahead = "" if more is None else f"; {text.counted(more, 'more seed')} would, if all meet it"
    return f"{meeting} of {seeds} seeds do not show a share above {finding.min_share:g} yet{ahead}"


def seeds_needed(meeting: int, seeds: int, needed: float) -> int | None:
    """How many more seeds, if all meet the criterion, would show the share; None: too many."""
    if needed >= 1:
        return None
    low, high = 0, SEEDS_AHEAD
    if share.log_e_above(meeting + high, seeds + high, needed) < DECIDED_LOG_E:
        return None
    while low < high:
        middle = (low + high) // 2
        if share.log_e_above(meeting + middle, seeds + middle, needed) >= DECIDED_LOG_E:
            high = middle
        else:
            low = middle + 1
    return low


def _verdicts(
    manifest: Manifest,
    weighed: _Weighed,
    verdict: Verdict,
    reason: str,
    pending: int,
    with_pending: Verdict,
) -> Verdicts:
    finding, values, counted = weighed.finding, weighed.values, weighed.counted
    known = Verdicts(
        name=finding.name, claim=finding.claim, verdict=verdict, reason=reason, seeds=len(values),
        hosts=len({s.host_id for s in counted.samples}),
        estimate=float(values.mean()) if len(values) else None,
        meeting=evidence.meeting(finding, values) if len(values) else 0,
        missing=dict(counted.missing), out=counted.out, pending=pending,
        verdict_with_pending=with_pending if pending else None,
    )  # fmt: skip
    return known if weighed.too_few else _with_numbers(manifest, weighed, known)


def _with_numbers(manifest: Manifest, weighed: _Weighed, known: Verdicts) -> Verdicts:
    finding, values, between = weighed.finding, weighed.values, weighed.between
    missing = sum(weighed.counted.missing.values())
    low, high = evidence.interval(manifest, finding, values, missing)
    sign_share, sign_p = sign_consistency(finding, values)
    return replace(
        known,
        low=low if math.isfinite(low) else None,
        high=high if math.isfinite(high) else None,
        effect_size=effect_size(finding, values),
        sign_share=sign_share,
        sign_p=sign_p,
        heterogeneity_p=between.p if between else None,
        between_hosts=between,
        log_e_for=_finite(weighed.evidence.confirming),
        log_e_against=_finite(weighed.evidence.refuting),
        fixed_verdict=fixed_verdict(finding, values.tolist(), sound=not weighed.held),
    )


def no_effect(finding: Finding) -> float:
    """The number's value if there is no effect."""
    return {"ratio": 1.0, "share": 0.5}.get(finding.statistic, 0.0)


def effect_size(finding: Finding, values: np.ndarray) -> float | None:
    """Cohen's d of paired samples; None for unpaired statistics, or if all values are equal."""
    spread = float(values.std(ddof=1))
    if finding.control is None or spread == 0:
        return None
    return (float(values.mean()) - no_effect(finding)) / spread


def sign_consistency(finding: Finding, values: np.ndarray) -> tuple[float | None, float | None]:
    """Share of seeds on the mean's side of no effect, and the exact binomial p of it."""
    if finding.statistic == "share":
        met = float(values.mean())
        return max(met, 1 - met), float(
            scipy.stats.binomtest(int(values.sum()), len(values)).pvalue
        )
    away = values - no_effect(finding)
    away = away[away != 0]  # ties do not count
    if not len(away):
        return None, None
    same = int(np.sum(np.sign(away) == np.sign(away.mean())))
    return same / len(away), float(scipy.stats.binomtest(same, len(away)).pvalue)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
