"""A seed gives the same result cold, warm, and stopped and restored; two seeds give different ones.

Results on one machine are exactly equal; test_drift.py is about differences between machines.
"""

from __future__ import annotations

from itertools import combinations

import pytest

from axiom_protocol.agreement import disagreements
from tests.science.harness import experiment
from tests.science.plan import FRESH, NAMES, TWENTY, repeated, whole
from tests.science.runs import result, run

SECONDS_MAX = 120  # on one core
MEMORY_MAX_BYTES = 1 << 30


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_seed_agrees_with_itself_cold_warm_and_restored(name: str) -> None:
    once = result(name, FRESH[0])
    for again in repeated(name):
        assert run(again).result == once, again.how


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_any_two_seeds_differ_by_more_than_the_tolerances(name: str) -> None:
    manifest, _ = experiment(name)
    for a, b in combinations(TWENTY, 2):
        assert disagreements(manifest, result(name, a), result(name, b), limit=1) != [], (a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_default_run_is_as_small_as_declared(name: str) -> None:
    """In CPU seconds, which a crowded machine does not lengthen as it does the clock's."""
    memory = min(MEMORY_MAX_BYTES, experiment(name)[0].resources.memory_bytes)
    for seed in TWENTY:
        used = run(whole(name, seed))
        assert used.cpu_seconds <= SECONDS_MAX
        assert used.peak_bytes < memory
