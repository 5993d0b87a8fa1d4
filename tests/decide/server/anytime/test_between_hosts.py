"""The random-effects estimate, against a published data set, and its power against a simulation."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")  # the server's own; `make fast` does without

from axiom_protocol.verdicts.anytime import between_hosts

#: Log risk ratios of 13 trials of BCG vaccine (Colditz 1994), the usual example; their variances.
RATIOS = np.array([
    -0.8893, -1.5854, -1.3481, -1.4416, -0.2175, -0.7861, -1.6209, 0.0120, -0.4694, -1.3713,
    -0.3394, 0.4459, -0.0173,
])  # fmt: skip
VARIANCES = np.array([
    0.3256, 0.1946, 0.4154, 0.0200, 0.0512, 0.0069, 0.2230, 0.0040, 0.0564, 0.0730, 0.0124,
    0.5325, 0.0714,
])  # fmt: skip


def test_the_bcg_trials_give_what_statsmodels_gives() -> None:
    """statsmodels 0.15.0, ``combine_effects(..., method_re="iterated", use_t=True)``."""
    tau2 = between_hosts.between_variance(RATIOS, VARIANCES)
    assert tau2 == pytest.approx(0.3180824398739576, rel=1e-8)
    found = between_hosts.mean_over_hosts(RATIOS, VARIANCES, tau2, 0.05)
    assert found == pytest.approx((-0.714970, -1.10910564, -0.32083498), abs=1e-6)


def test_hosts_that_scatter_less_than_their_seeds_have_no_variance() -> None:
    means = np.array([1.0, 1.01, 0.99])
    assert between_hosts.between_variance(means, np.full(3, 1.0)) == 0.0


def test_a_detectable_difference_is_found_in_four_of_five_cases() -> None:
    rng = np.random.default_rng(5)
    hosts, seeds, draws = 5, 8, 400
    sd = between_hosts.detectable_ratio([seeds] * hosts, 0.001)
    found = 0
    for _ in range(draws):
        groups = {
            host: (sd * rng.standard_normal() + rng.standard_normal(seeds)).tolist()
            for host in range(hosts)
        }
        compared = between_hosts.compare(groups, 0.05, 0.001)
        assert compared is not None
        found += compared.p < 0.001
    assert found / draws == pytest.approx(0.8, abs=4 * (0.8 * 0.2 / draws) ** 0.5)


@pytest.mark.parametrize("groups", [{}, {1: [1.0, 2.0]}, {1: [1.0], 2: [2.0]},
                                    {1: [1.0, 1.0], 2: [1.0, 1.0]}])  # fmt: skip
def test_too_few_hosts_or_equal_seeds_compare_nothing(groups: dict[int, list[float]]) -> None:
    assert between_hosts.compare(groups, 0.05, 0.001) is None
