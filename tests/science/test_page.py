"""docs/findings.md shows the results of fresh seeds, for current versions and the current rule."""

from __future__ import annotations

import pytest

from tests.science import fresh
from tests.science.harness import experiment
from tests.science.plan import FRESH, JUDGED
from tests.science.report import PAGE, tables, with_tables
from tests.science.tables import HEAD
from tests.science.test_findings import AGAINST, CONFIRMED, EXPECTED

LAST_USED = 5100  # of the seeds that any experiment was tuned or tried on


@pytest.mark.parametrize("name", JUDGED)
def test_the_page_covers_the_current_version(name: str) -> None:
    """Otherwise: python -m tests.science.report --collect 6001..6044 NAME --write, on new seeds."""
    assert fresh.kept()[name]["version"] == experiment(name)[0].version


@pytest.mark.parametrize("name", JUDGED)
def test_seeds_are_fresh_and_none_is_left_out(name: str) -> None:
    seeds = list(fresh.results(name))
    assert seeds[0] == FRESH[0] > LAST_USED
    assert seeds == list(range(seeds[0], seeds[0] + len(seeds)))


def test_the_tables_match_the_stored_numbers() -> None:
    """Otherwise: python -m tests.science.report --write."""
    page = PAGE.read_text()
    assert with_tables(page, tables()) == page


@pytest.mark.parametrize("name", JUDGED)
def test_fresh_seeds_give_the_expected_verdicts(name: str) -> None:
    """By the rule of today too few seeds decide nothing, but never the other way."""
    for finding, verdict in fresh.verdicts(name).items():
        expected = EXPECTED.get((name, finding), CONFIRMED)
        assert verdict.verdict not in (AGAINST if expected == CONFIRMED else CONFIRMED)


def test_every_finding_has_a_row_and_none_else() -> None:
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines()]
    told = [row[0].removeprefix("| ") for row in rows if len(row) == len(HEAD)]
    there = [f.name for name in fresh.kept() for f in experiment(name)[0].findings]
    assert sorted(name for name in told if name not in (HEAD[0], "---")) == sorted(there)
