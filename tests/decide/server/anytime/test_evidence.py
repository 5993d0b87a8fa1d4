"""E-values: exact means where outcomes can be listed, integrals where they cannot."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

scipy = pytest.importorskip("scipy")  # the server's own; `make fast` does without

from axiom_protocol.verdicts.anytime import bounded, share, student  # noqa: E402
from axiom_protocol.verdicts.anytime.discoveries import discoveries  # noqa: E402


@pytest.mark.parametrize("border", [0.3, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("seeds", [1, 7, 40])
def test_an_e_value_of_a_share_has_mean_one_on_the_border_and_less_below(
    border: float, seeds: int
) -> None:
    e = np.exp([share.log_e_above(s, seeds, border) for s in range(seeds + 1)])
    on_border = scipy.stats.binom.pmf(np.arange(seeds + 1), seeds, border)
    below = scipy.stats.binom.pmf(np.arange(seeds + 1), seeds, border - 0.1)
    assert float(on_border @ e) == pytest.approx(1.0, rel=1e-9)
    assert float(below @ e) < 1.0


def test_a_share_is_the_mixture_that_it_says() -> None:
    def ratio(p: float) -> float:
        density = 1 / math.sqrt(p * (1 - p))
        return density * (p / 0.9) ** 18 * ((1 - p) / 0.1) ** 1

    above, _ = scipy.integrate.quad(ratio, 0.9, 1)
    mass, _ = scipy.integrate.quad(lambda p: 1 / math.sqrt(p * (1 - p)), 0.9, 1)
    assert share.log_e_above(18, 19, 0.9) == pytest.approx(math.log(above / mass), rel=1e-6)
    assert share.log_e_below(1, 19, 0.1) == pytest.approx(share.log_e_above(18, 19, 0.9))


def test_a_share_of_one_can_never_be_shown_and_one_failure_denies_it() -> None:
    assert share.log_e_above(1000, 1000, 1.0) == -math.inf
    assert share.log_e_below(999, 1000, 1.0) == math.inf
    assert share.log_e_below(1000, 1000, 1.0) == 0.0


def test_what_underflows_is_still_a_bound() -> None:
    def ratio(p: float) -> float:
        return math.exp(5000 * (math.log1p(-p) - math.log(0.1))) / math.sqrt(p * (1 - p))

    above, _ = scipy.integrate.quad(ratio, 0.9, 0.905, epsabs=0)
    mass = 2 * (math.asin(1) - math.asin(math.sqrt(0.9)))
    found = share.log_e_above(0, 5000, 0.9)
    assert found <= math.log(above / mass)
    assert found == pytest.approx(math.log(above / mass), abs=0.3)


def test_the_interval_of_a_share_ends_where_the_evidence_does() -> None:
    low, high = share.interval(85, 100, 0.05)
    assert share.log_e_above(85, 100, low) == pytest.approx(math.log(40), abs=1e-3)
    assert share.log_e_below(85, 100, high) == pytest.approx(math.log(40), abs=1e-3)
    exact = scipy.stats.binomtest(85, 100).proportion_ci(0.95, method="exact")
    assert low < exact.low < exact.high < high, "it costs something to be valid at any time"


def test_twenty_of_twenty_seeds_do_not_show_nine_of_ten() -> None:
    low, high = share.interval(20, 20, 0.05)
    assert low < 0.86
    assert high == 1.0


def test_a_bet_has_mean_one_on_the_border_for_any_distribution() -> None:
    """Two values of mean 0.3 in [0, 1], and three in [0, infinity)."""
    for points, chances in (
        ((0.1, 0.7), (2 / 3, 1 / 3)),
        ((0.0, 0.2, 30.0), (0.2, 0.795, 0.005)),
    ):
        mean = float(np.dot(points, chances))
        total = sum(
            math.prod(chances[i] for i in path)
            * math.exp(bounded.log_e_above(np.array([points[i] for i in path]), 0.0, mean))
            for path in product(range(len(points)), repeat=6)
        )
        assert total == pytest.approx(1.0, rel=1e-9)


def test_a_bet_is_the_average_wealth_of_its_gamblers() -> None:
    values = np.array([0.9, 0.8, 0.95])
    wealth = [np.prod(1 + f * (values - 0.5) / 0.5) for f in bounded.FRACTIONS]
    assert bounded.log_e_above(values, 0.0, 0.5) == pytest.approx(math.log(np.mean(wealth)))
    assert bounded.log_e_below(1 - values, 1.0, 0.5) == pytest.approx(math.log(np.mean(wealth)))


def test_the_interval_of_a_bounded_mean_ends_where_the_evidence_does() -> None:
    values = np.random.default_rng(0).beta(8, 2, 60)
    low, high = bounded.lower(values, 0.0, 0.025), bounded.upper(values, 1.0, 0.025)
    assert bounded.log_e_above(values, 0.0, low) == pytest.approx(math.log(40), abs=1e-6)
    assert bounded.log_e_below(values, 1.0, high) == pytest.approx(math.log(40), abs=1e-6)
    assert low < values.mean() < high


def test_values_at_the_bound_and_rounded_past_it_break_nothing() -> None:
    values = np.array([0.0, -1e-17, 1.0])
    assert math.isfinite(bounded.log_e_above(values, 0.0, 0.5))
    assert bounded.log_e_above(np.ones(3), 0.0, 0.0) == math.inf
    assert bounded.log_e_above(np.zeros(3), 0.0, 0.0) == 0.0


def test_a_t_test_is_the_mixture_of_noncentral_t_ratios() -> None:
    values = np.random.default_rng(1).normal(0.4, 1.0, 12)
    n = len(values)
    t = float(scipy.stats.ttest_1samp(values, 0).statistic)

    def weighted(effect: float) -> float:
        density: float = scipy.stats.nct.pdf(
            t, n - 1, effect * math.sqrt(n)
        ) * scipy.stats.norm.pdf(effect)
        return density

    mixture, _ = scipy.integrate.quad(weighted, -6, 6)
    expected = math.log(mixture / scipy.stats.t.pdf(t, n - 1))
    assert student.log_e(values, 0.0) == pytest.approx(expected, rel=1e-5)
    assert student.log_e(1000 * values, 0.0) == pytest.approx(expected, rel=1e-5)


def test_one_side_of_a_t_test_is_the_least_over_its_hypotheses() -> None:
    values = np.random.default_rng(2).normal(0.0, 1.0, 30)
    for border in (-0.5, 0.5):
        least = min(student.log_e(values, m) for m in np.linspace(-3, border, 4001))
        assert student.log_e_above(values, border) == pytest.approx(least, abs=1e-4)


def test_the_interval_of_a_t_test_ends_where_the_evidence_does() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, 25)
    for end in student.interval(values, 0.05):
        assert student.log_e(values, end) == pytest.approx(math.log(20), abs=1e-9)
    assert student.interval(values[:3], 0.05) == (-math.inf, math.inf)


def test_e_bh_rejects_as_its_definition_says() -> None:
    e = [100.0, 45.0, 30.0, 1.0]  # 4 / (k 0.1) is 40, 20, 13.3, 10
    assert discoveries([math.log(x) for x in e], 0.1) == [True, True, True, False]
    assert discoveries([math.log(39.0), 0.0, 0.0, 0.0], 0.1) == [False] * 4
    assert discoveries([0.0, math.log(21.0), math.log(21.0), 0.0], 0.1) == [
        False, True, True, False,
    ]  # fmt: skip
    assert discoveries([math.inf, -math.inf], 0.05) == [True, False]
    assert discoveries([], 0.05) == []


def test_e_bh_of_inverse_p_values_rejects_no_more_than_bh() -> None:
    p = np.random.default_rng(4).beta(0.2, 2, 50)
    by_bh = scipy.stats.false_discovery_control(p) <= 0.05
    assert discoveries(list(-np.log(p)), 0.05) == by_bh.tolist()
