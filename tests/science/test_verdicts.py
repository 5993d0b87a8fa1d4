"""The simulation of false verdicts uses the server's rule, and its rows are correct."""

from __future__ import annotations

import numpy as np
import pytest

from axiom_protocol.verdicts.findings import judge
from axiom_protocol.verdicts.samples import IssuedSeed, Sample
from axiom_protocol.verdicts.study_numbers import number_of
from tests.science.budget_verdicts import BUDGET, Project, budget_rates, spent
from tests.science.study_verdicts import STUDY_ROWS, StudyRow, study_rates
from tests.science.verdicts import (
    FIRST,
    LAST,
    LIMIT,
    ROWS,
    SEED,
    Row,
    decisions,
    false_rates,
    reported,
)

PATHS = 200


def verdict_of(row: Row, values: np.ndarray, there: np.ndarray, n: int) -> str:
    """The server's verdict after ``n`` issued seeds."""
    manifest, finding = row.claim()
    samples = [
        Sample(
            task_id=i, seed=i, host_id=1, parameters={},
            result={"valid": 1, "configs_done": 1, "value": float(values[i])},
        )
        for i in range(n) if there[i]
    ]  # fmt: skip
    issued = [
        IssuedSeed(seed=i, parameters={}, batch=1, state="reported" if there[i] else "lost")
        for i in range(n)
    ]
    return judge(manifest, finding, samples, issued=issued).verdict


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_simulation_gives_the_servers_verdicts(row: Row) -> None:
    rng = np.random.default_rng(SEED)
    values = row.draw(rng, LAST)
    there = reported(row, values, rng)
    found = dict(decisions(row, values, there))
    for n in (FIRST + 5, 60, LAST):
        expected = "preliminary" if found[n] == "open" else found[n]
        assert verdict_of(row, values, there, n) == expected


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_at_most_5_percent_of_verdicts_are_false_under_peeking(row: Row) -> None:
    old, new = false_rates(row, PATHS)
    assert new <= LIMIT
    assert new < old


STUDY_PATHS = 20


@pytest.mark.parametrize("row", STUDY_ROWS[:3], ids=lambda row: row.name)
def test_drawn_maps_have_the_mean_that_their_row_names(row: StudyRow) -> None:
    """Each finding's number, as the server takes it, has the mean that the row's name says."""
    rng, design = np.random.default_rng(SEED), row.design()
    finding, sets = design.findings[0], design.sets()
    drawn = [number_of(design, finding, sets, row.draw(rng).ravel()) for _ in range(2000)]
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert abs(np.mean(drawn) - row.above) < 4 * error


@pytest.mark.slow
@pytest.mark.parametrize("row", STUDY_ROWS, ids=lambda row: row.name)
def test_at_most_5_percent_of_study_verdicts_are_false(row: StudyRow) -> None:
    old, new = study_rates(row, STUDY_PATHS)
    assert new <= LIMIT
    assert new < old


def test_the_error_budget_is_spent_only_on_verdicts() -> None:
    project = Project(np.random.default_rng(SEED))
    first, *_, last = spent(project)
    assert set(first) == {"open"}
    assert last[3::4].count("confirmed") >= 3  # the true claims of five experiments
    assert project.left < BUDGET / 2


@pytest.mark.slow
def test_at_most_5_percent_of_budgets_give_a_false_verdict() -> None:
    old, new, share = budget_rates(PATHS // 4)
    assert max(new, share) <= LIMIT
    assert new < old
