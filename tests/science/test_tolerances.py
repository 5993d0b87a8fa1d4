"""Declared tolerances are above the drift between kernels and far below the scatter of seeds.

They are compared with measured_tolerances.json, which `python -m tests.science.tolerances` writes;
in `make science` also with runs of the current code.
"""

from __future__ import annotations

import pytest

from tests.science.harness import experiment
from tests.science.plan import NAMES
from tests.science.tolerances import Spread, declared, measured, spreads


def check(name: str, found: list[Spread]) -> None:
    fields = declared(experiment(name)[0].result)
    for one in found:
        assert one.is_tight(fields[one.path]), one
        assert one.is_wide_enough(fields[one.path]), one


@pytest.mark.parametrize("name", NAMES)
def test_every_compared_number_was_measured(name: str) -> None:
    assert {one.path for one in measured()[name]} == set(declared(experiment(name)[0].result))


@pytest.mark.parametrize("name", NAMES)
def test_tolerances_lie_between_drift_and_scatter(name: str) -> None:
    check(name, measured()[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_tolerances_hold_for_the_current_code(name: str) -> None:
    check(name, spreads(name))
