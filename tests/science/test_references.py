"""Independent implementations of experiments, written as plainly as possible, agree with them."""

from __future__ import annotations

import pytest

from benchmarks.experiments import compare, referenced

SEED = 8


@pytest.mark.slow  # a minute each
@pytest.mark.parametrize("name", referenced())
def test_an_experiment_and_its_reference_give_the_same_numbers(name: str) -> None:
    compare(name, rounds=1, seed=SEED)  # raises Disagreement
