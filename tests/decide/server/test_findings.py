"""Verdicts: from seeds, not from counting; against data whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from axiom_protocol.agreement import disagreements
from axiom_protocol.manifest import Criterion, Field, Finding, Manifest, Parameter

scipy = pytest.importorskip("scipy")  # the server's own; `make fast` does without

from axiom_protocol.verdicts import findings, samples  # noqa: E402
from axiom_protocol.verdicts.findings import Verdicts  # noqa: E402
from axiom_protocol.verdicts.samples import IssuedSeed, Sample, SeedState  # noqa: E402

MANIFEST = Manifest(
    name="known", version="1.0.0", title="Known", question="Is it?", expected_seconds=1.0,
    parameters={"width": Parameter(default=8)},
    result={n: Field() for n in ("valid", "configs_done", "a", "b", "flag")},
)  # fmt: skip
MEAN = Finding(name="mean", claim="a is above 1", field="a", criterion=Criterion(above=1.0))
DIFFERENCE = Finding(
    name="difference", claim="a is above b", field="a", control="b", statistic="difference",
    criterion=Criterion(above=0.0), min_share=0.0,
)  # fmt: skip
SHARE = Finding(
    name="share", claim="it mostly happens", field="flag", statistic="share",
    criterion=Criterion(above=0.5),
)  # fmt: skip


ENOUGH = 100  # seeds that decide a clear claim about a number without bounds


def sample(seed: int, a: float, b: float = 0.0, valid: int = 1, flag: int = 1,
           host: int = 1, width: int = 8) -> Sample:  # fmt: skip
    result = {"valid": valid, "configs_done": 1, "a": a, "b": b, "flag": flag}
    return Sample(task_id=seed, seed=seed, host_id=host, parameters={"width": width}, result=result)


def judge(finding: Finding, found: list[Sample]) -> Verdicts:
    return findings.judge(MANIFEST, finding, found)


def test_four_seeds_are_not_enough() -> None:
    verdict = judge(MEAN, [sample(i, 5.0 + i / 10) for i in range(4)])
    assert (verdict.verdict, verdict.seeds) == ("insufficient", 4)
    assert judge(MEAN, []).estimate is None


def test_replicas_of_one_seed_are_one_sample() -> None:
    many = [replace(sample(1, 5.0), task_id=i, host_id=i) for i in range(50)]
    assert judge(MEAN, many).seeds == 1


def test_invalid_runs_and_other_parameters_do_not_count() -> None:
    runs = [sample(i, 5.0 + i / 1000) for i in range(ENOUGH)]
    runs += [sample(1000 + i, -100.0, valid=0) for i in range(ENOUGH)]
    runs += [sample(2000 + i, -100.0 - i, width=9) for i in range(ENOUGH)]
    assert judge(MEAN, runs).verdict == "confirmed"
    wide = replace_where(MEAN, {"width": 9})
    assert judge(wide, runs).verdict == "fails seed by seed"
    assert judge(msgspec.structs.replace(wide, min_share=0.0), runs).verdict == "rejected"


@pytest.mark.parametrize(
    ("failing", "verdict"), [(ENOUGH, "confirmed"), (ENOUGH + 1, "preliminary")]
)
def test_if_most_runs_fail_their_gates_the_others_are_no_evidence(
    failing: int, verdict: str
) -> None:
    """The few runs of a broken script that pass its gates are a biased selection."""
    runs = [sample(i, 5.0 + i / 1000) for i in range(ENOUGH)]
    runs += [sample(1000 + i, 0.0, valid=0) for i in range(failing)]
    assert judge(MEAN, runs).verdict == verdict


def test_a_script_that_ignores_its_seed_has_one_sample() -> None:
    """A whole fleet once ran with one seed: every replication on ten hosts was the same run."""
    manifest = msgspec.structs.replace(
        MANIFEST, result=MANIFEST.result | {"a": Field(rtol=1e-8), "flag": Field(kind="flag")}
    )

    def ignored(values: list[float]) -> bool:
        return samples.is_seed_ignored(
            manifest, [sample(i, v).result for i, v in enumerate(values)]
        )

    digits = [5.0 * (1 + 1e-12 * i) for i in range(8)]  # of other hosts
    assert ignored(digits)
    assert not ignored([5.0 + i / 100 for i in range(8)])
    assert not ignored([5.0, 5.0, 6.0])  # two may meet
    assert not ignored([5.0])
    runs = [sample(i, 5.0 * (1 + 1e-12 * i)) for i in range(ENOUGH)]
    assert findings.judge(manifest, MEAN, runs).verdict == "confirmed"
    found = findings.judge(manifest, MEAN, runs, seed_ignored=True)
    assert (found.verdict, found.seeds) == ("insufficient", ENOUGH)
    assert "one sample" in found.reason


def test_flags_alone_may_be_equal_for_every_seed() -> None:
    kinds = {n: Field(kind="flag") for n in ("valid", "flag")} | {"a": Field(chaotic=True)}
    manifest = msgspec.structs.replace(MANIFEST, result=kinds)
    assert not samples.is_seed_ignored(manifest, [sample(i, 1.0).result for i in range(8)])


def replace_where(finding: Finding, where: dict[str, int]) -> Finding:
    return msgspec.structs.replace(finding, where=where)


@pytest.mark.parametrize(
    ("centre", "verdict"),
    [(1.5, "confirmed"), (0.5, "fails seed by seed"), (1.0, "fails seed by seed")],
)
def test_verdicts_on_known_means(centre: float, verdict: str) -> None:
    values = centre + 0.1 * scipy.stats.norm.ppf(np.linspace(0.005, 0.995, ENOUGH))
    assert judge(MEAN, [sample(i, v) for i, v in enumerate(values)]).verdict == verdict


def test_a_mean_on_its_criterion_stays_open_where_nothing_is_claimed_of_seeds() -> None:
    values = 1.0 + 0.1 * scipy.stats.norm.ppf(np.linspace(0.005, 0.995, ENOUGH))
    free = msgspec.structs.replace(MEAN, min_share=0.0)
    found = judge(free, [sample(i, v) for i, v in enumerate(values)])
    assert found.verdict == "preliminary"
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1.0 < found.high


def test_a_verdict_says_how_many_seeds_are_missing() -> None:
    bounded = with_bounds(MANIFEST, 0.0, 10.0)
    runs = [sample(i, 5.0) for i in range(20)]
    found = findings.judge(bounded, MEAN, runs)
    assert (found.verdict, found.fixed_verdict) == ("preliminary", "confirmed")
    assert "24 more seeds would, if all meet it" in found.reason
    runs += [sample(20 + i, 5.0) for i in range(23)]
    assert findings.judge(bounded, MEAN, runs).verdict == "preliminary"
    assert findings.judge(bounded, MEAN, [*runs, sample(99, 5.0)]).verdict == "confirmed"


def with_bounds(manifest: Manifest, low: float, high: float) -> Manifest:
    fields = manifest.result | {name: Field(min=low, max=high) for name in ("a", "b")}
    return msgspec.structs.replace(manifest, result=fields)


def test_single_seeds_may_contradict_the_mean() -> None:
    runs = [sample(i, 0.9 if i % 4 == 0 else 5.0 + i / 1000) for i in range(ENOUGH)]
    found = judge(MEAN, runs)
    assert (found.verdict, found.meeting) == ("fails seed by seed", ENOUGH - ENOUGH // 4)
    assert "fails seed by seed" in found.reason


def test_a_paired_difference_uses_the_same_seed() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, ENOUGH)
    above = base + 1 + rng.normal(0, 0.1, ENOUGH)
    found = judge(DIFFERENCE, [sample(i, above[i], base[i]) for i in range(ENOUGH)])
    assert found.verdict == "confirmed"
    assert found.effect_size is not None
    assert found.effect_size > 5
    assert (found.sign_share, found.sign_p) == (1.0, pytest.approx(2 * 0.5**ENOUGH))


def test_a_share_is_decided_by_its_own_evidence() -> None:
    found = judge(SHARE, [sample(i, 0, flag=int(i > 0)) for i in range(12)])
    assert (found.verdict, found.meeting) == ("confirmed", 11)
    assert judge(SHARE, [sample(i, 0) for i in range(5)]).verdict == "preliminary"
    assert judge(SHARE, [sample(i, 0, flag=0) for i in range(12)]).verdict == "rejected"


def test_hosts_that_differ_by_more_than_chance_hold_a_verdict_back() -> None:
    noise = np.random.default_rng(2).normal(0, 0.1, ENOUGH)
    same = [sample(i, 5 + v, host=i % 3) for i, v in enumerate(noise)]
    found = judge(MEAN, same)
    assert found.verdict == "confirmed"
    assert found.between_hosts is not None
    assert found.between_hosts.detectable_sd < 0.1
    shifted = [sample(i, 5 + (i % 3) + v, host=i % 3) for i, v in enumerate(noise)]
    found = judge(MEAN, shifted)
    assert found.verdict == "preliminary"
    assert "hosts differ" in found.reason
    assert found.between_hosts is not None
    assert found.between_hosts.sd == pytest.approx(1.0, rel=0.05)


def test_equal_numbers_break_no_formula() -> None:
    found = judge(DIFFERENCE, [sample(i, 2.0, 1.0, host=i % 2) for i in range(ENOUGH)])
    assert (found.verdict, found.effect_size, found.heterogeneity_p) == ("confirmed", None, None)
    ratio = Finding(
        name="r", claim="c", field="a", control="b", statistic="ratio",
        criterion=Criterion(above=0.5),
    )  # fmt: skip
    found = judge(ratio, [sample(i, 2.0, 0.0) for i in range(8)])
    assert (found.seeds, found.missing) == (0, {"undefined": 8})


def test_the_order_in_which_seeds_come_changes_nothing() -> None:
    manifest = with_bounds(MANIFEST, -10.0, 10.0)
    runs = [sample(i, 1.2 + 0.3 * math.sin(i), host=i % 4) for i in range(ENOUGH)]
    ahead = findings.judge(manifest, MEAN, runs)
    behind = findings.judge(manifest, MEAN, runs[::-1])
    assert ahead.log_e_for == pytest.approx(behind.log_e_for)
    assert ahead.verdict == behind.verdict


def together(manifest: Manifest, runs: list[Sample], wanted: list[Finding]) -> list[Verdicts]:
    study = findings.Study(manifest=manifest, samples=runs, findings=wanted)
    return findings.judge_together([study])[0]


def test_findings_are_decided_together() -> None:
    """Evidence that is enough for one claim is not when it was picked from forty."""
    rng = np.random.default_rng(3)
    runs = [sample(i, 5.0 + i / 1000, flag=int(v)) for i, v in enumerate(rng.random(44) < 0.5)]
    bounded = with_bounds(MANIFEST, 0.0, 10.0)
    border = [msgspec.structs.replace(SHARE, name=f"share_{i}") for i in range(39)]
    alone, *_ = together(bounded, runs, [MEAN])
    picked, *others = together(bounded, runs, [MEAN, *border])
    assert alone.verdict == "confirmed"
    assert picked.verdict == "preliminary"
    assert "other findings" in picked.reason
    assert {other.verdict for other in others} == {"preliminary"}
    apart = findings.judge_together([
        findings.Study(manifest=bounded, samples=runs, findings=group) for group in ([MEAN], border)
    ])  # fmt: skip
    assert [len(version) for version in apart] == [1, 39]
    assert apart[0][0].verdict == "preliminary", "other versions' findings are part of the family"


def issued(states: dict[SeedState, range], batch: int = 1) -> list[IssuedSeed]:
    return [
        IssuedSeed(seed=seed, parameters={"width": 8}, batch=batch, state=state)
        for state, seeds in states.items()
        for seed in seeds
    ]


def test_lost_seeds_are_in_the_denominator() -> None:
    """If failing seeds never report, the reporting ones are a selection: all meet the criterion."""
    runs = [sample(i, 5.0 + i / 1000) for i in range(ENOUGH)]
    assert judge(MEAN, runs).verdict == "confirmed"
    planned = issued({"reported": range(ENOUGH), "lost": range(ENOUGH, ENOUGH + 15)})
    found = findings.judge(MANIFEST, MEAN, runs, issued=planned)
    assert (found.verdict, found.missing) == ("preliminary", {"lost": 15})


def test_missing_seeds_may_not_reject_either() -> None:
    runs = [sample(i, -5.0 - i / 1000) for i in range(10)]
    assert judge(MEAN, runs).verdict == "fails seed by seed"
    planned = issued({"reported": range(10), "late": range(10, 110)})
    found = findings.judge(MANIFEST, MEAN, runs, issued=planned)
    assert (found.verdict, found.missing) == ("preliminary", {"late": 100})


def test_no_verdict_while_a_planned_batch_is_out() -> None:
    runs = [sample(i, 5.0 + i / 1000) for i in range(ENOUGH)]
    first = issued({"reported": range(ENOUGH - 1), "out": range(ENOUGH - 1, ENOUGH)})
    found = findings.judge(MANIFEST, MEAN, runs[:-1], issued=first)
    assert (found.verdict, found.out) == ("preliminary", 1)
    assert "not reported yet" in found.reason
    done = issued({"reported": range(ENOUGH)})
    later = issued({"reported": range(200, 220), "out": range(220, 260)}, batch=2)
    bad = [sample(seed, -5.0) for seed in range(200, 220)]
    found = findings.judge(MANIFEST, MEAN, [*runs, *bad], issued=[*done, *later])
    assert (found.verdict, found.seeds, found.out) == ("confirmed", ENOUGH, 40)


def test_unconfirmed_results_are_shown_separately() -> None:
    runs = [sample(i, 5.0 + i / 1000) for i in range(ENOUGH)]
    unchecked = [replace(run, settled=False) for run in runs[60:]]
    found = judge(MEAN, [*runs[:60], *unchecked])
    assert (found.verdict, found.seeds, found.pending) == ("preliminary", 60, ENOUGH - 60)
    assert found.verdict_with_pending == "confirmed"
    invented = [replace(sample(500 + i, -1e6), settled=False) for i in range(50)]
    found = judge(MEAN, [*runs, *invented])
    assert (found.estimate, found.verdict_with_pending) == (
        pytest.approx(5.05, abs=0.01), "fails seed by seed",
    )  # fmt: skip


def test_a_finding_on_a_field_that_is_not_compared_has_no_verdict() -> None:
    runs = [sample(i, 5.0 + i / 1000) for i in range(ENOUGH)]

    def judged(field: Field) -> Verdicts:
        manifest = msgspec.structs.replace(MANIFEST, result=MANIFEST.result | {"a": field})
        return findings.judge(manifest, MEAN, runs)

    assert judged(Field(chaotic=True, rtol=0.1)).verdict == "confirmed"
    found = judged(Field(chaotic=True))
    assert found.verdict == "preliminary"
    assert "replication does not compare a" in found.reason


def test_a_chaotic_field_is_compared_where_a_finding_reads_it() -> None:
    fields = MANIFEST.result | {
        "a": Field(chaotic=True, rtol=0.1),
        "b": Field(chaotic=True, rtol=0.1),
    }
    manifest = msgspec.structs.replace(MANIFEST, result=fields, findings=[MEAN])
    one = sample(1, 5.0, 5.0).result
    assert disagreements(manifest, one, one | {"a": 5.1, "b": 9.0}) == []
    assert len(disagreements(manifest, one, one | {"a": 9.0, "b": 9.0})) == 1
