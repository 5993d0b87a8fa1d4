"""Verdicts: from seeds, not from counting; against data whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from axiom_protocol.manifest import Criterion, Field, Finding, Manifest, Parameter

stats = pytest.importorskip("scipy.stats")  # the server's own; `make fast` does without

from axiom_server.decide import findings  # noqa: E402
from axiom_server.decide.findings import Sample, Verdicts  # noqa: E402

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


def sample(seed: int, a: float, b: float = 0.0, valid: int = 1, flag: int = 1,
           host: int = 1, width: int = 8) -> Sample:  # fmt: skip
    result = {"valid": valid, "configs_done": 1, "a": a, "b": b, "flag": flag}
    return Sample(task_id=seed, seed=seed, host_id=host, parameters={"width": width}, result=result)


def judge(finding: Finding, samples: list[Sample]) -> Verdicts:
    return findings.judge(MANIFEST, finding, samples)


def test_four_seeds_are_not_enough() -> None:
    verdict = judge(MEAN, [sample(i, 5.0 + i / 10) for i in range(4)])
    assert (verdict.verdict, verdict.seeds) == ("insufficient", 4)
    assert judge(MEAN, []).estimate is None


def test_replicas_of_one_seed_are_one_sample() -> None:
    many = [replace(sample(1, 5.0), task_id=i, host_id=i) for i in range(50)]
    assert judge(MEAN, many).seeds == 1


def test_invalid_runs_and_other_parameters_do_not_count() -> None:
    samples = [sample(i, 5.0 + i / 10) for i in range(5)]
    samples += [sample(10 + i, -100.0, valid=0) for i in range(5)]
    samples += [sample(20 + i, -100.0, width=9) for i in range(5)]
    assert judge(MEAN, samples).verdict == "confirmed"
    wide = replace_where(MEAN, {"width": 9})
    assert judge(wide, samples).verdict == "rejected"


@pytest.mark.parametrize(("failing", "verdict"), [(5, "confirmed"), (6, "preliminary")])
def test_where_most_runs_fail_their_gates_the_rest_is_no_evidence(
    failing: int, verdict: str
) -> None:
    """The few seeds that a broken script gets through its gates are those that chance favours."""
    samples = [sample(i, 5.0 + i / 10) for i in range(5)]
    samples += [sample(10 + i, 0.0, valid=0) for i in range(failing)]
    assert judge(MEAN, samples).verdict == verdict


def test_a_script_that_ignores_its_seed_has_one_sample() -> None:
    """A whole fleet once ran with one seed: every replication on ten hosts was the same run."""
    manifest = msgspec.structs.replace(
        MANIFEST, result=MANIFEST.result | {"a": Field(rtol=1e-8), "flag": Field(kind="flag")}
    )

    def ignored(values: list[float]) -> bool:
        return findings.is_seed_ignored(
            manifest, [sample(i, v).result for i, v in enumerate(values)]
        )

    digits = [5.0 * (1 + 1e-12 * i) for i in range(8)]  # of other hosts
    assert ignored(digits)
    assert not ignored([5.0 + i / 100 for i in range(8)])
    assert not ignored([5.0, 5.0, 6.0])  # two may meet
    assert not ignored([5.0])
    samples = [sample(i, v) for i, v in enumerate(digits)]
    assert findings.judge(manifest, MEAN, samples).verdict == "confirmed"
    found = findings.judge(manifest, MEAN, samples, seed_ignored=True)
    assert (found.verdict, found.seeds) == ("insufficient", 8)
    assert "one sample" in found.reason


def test_flags_alone_may_be_equal_for_every_seed() -> None:
    kinds = {n: Field(kind="flag") for n in ("valid", "flag")} | {"a": Field(chaotic=True)}
    manifest = msgspec.structs.replace(MANIFEST, result=kinds)
    assert not findings.is_seed_ignored(manifest, [sample(i, 1.0).result for i in range(8)])


def replace_where(finding: Finding, where: dict[str, int]) -> Finding:
    return msgspec.structs.replace(finding, where=where)


@pytest.mark.parametrize(
    ("centre", "spread", "verdict"),
    [(1.5, 0.1, "confirmed"), (0.5, 0.1, "rejected"), (1.0, 0.1, "preliminary")],
)
def test_verdicts_on_known_means(centre: float, spread: float, verdict: str) -> None:
    values = centre + spread * stats.norm.ppf(np.linspace(0.05, 0.95, 11))
    found = judge(MEAN, [sample(i, v) for i, v in enumerate(values)])
    assert found.verdict == verdict
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_good_mean_with_bad_seeds_is_preliminary() -> None:
    values = [5.0] * 16 + [5.1] * 4 + [0.9] * 4
    found = judge(MEAN, [sample(i, v) for i, v in enumerate(values)])
    assert (found.verdict, found.meeting) == ("preliminary", 20)


def test_a_paired_difference_uses_the_same_seed() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, 12)
    above = base + 1 + rng.normal(0, 0.1, 12)
    found = judge(DIFFERENCE, [sample(i, above[i], base[i]) for i in range(12)])
    assert found.verdict == "confirmed"
    assert found.effect_size is not None
    assert found.effect_size > 5
    assert (found.sign_share, found.sign_p) == (1.0, pytest.approx(2 * 0.5**12))


def test_no_effect_is_confirmed_in_no_more_than_the_confidence_allows() -> None:
    rng = np.random.default_rng(1)
    confirmed = sum(
        judge(DIFFERENCE, [sample(i, v) for i, v in enumerate(rng.normal(0, 1, 10))]).verdict
        == "confirmed"
        for _ in range(1000)
    )
    assert confirmed / 1000 < 0.025 + 3 * math.sqrt(0.025 * 0.975 / 1000)


def test_a_share_has_an_exact_interval() -> None:
    found = judge(SHARE, [sample(i, 0, flag=int(i > 0)) for i in range(12)])
    exact = stats.binomtest(11, 12).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert found.verdict == "confirmed"
    few = judge(SHARE, [sample(i, 0) for i in range(5)])
    assert few.verdict == "preliminary"


def test_hosts_that_differ_by_more_than_chance_hold_a_verdict_back() -> None:
    rng = np.random.default_rng(2)
    same = [sample(i, v, host=i % 3) for i, v in enumerate(rng.normal(5, 0.1, 30))]
    assert judge(MEAN, same).verdict == "confirmed"
    shifted = [sample(i, 5 + (i % 3) + v, host=i % 3) for i, v in
               enumerate(rng.normal(0, 0.1, 30))]  # fmt: skip
    found = judge(MEAN, shifted)
    assert found.verdict == "preliminary"
    assert "hosts differ" in found.reason


def test_equal_numbers_break_no_formula() -> None:
    found = judge(DIFFERENCE, [sample(i, 2.0, 1.0, host=i % 2) for i in range(8)])
    assert (found.verdict, found.effect_size, found.heterogeneity_p) == ("confirmed", None, None)
    ratio = Finding(
        name="r", claim="c", field="a", control="b", statistic="ratio",
        criterion=Criterion(above=0.5),
    )  # fmt: skip
    assert judge(ratio, [sample(i, 2.0, 0.0) for i in range(8)]).seeds == 0
