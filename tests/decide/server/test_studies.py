"""A study's numbers, bounds and refinement, and how a seed budget is spent; without a database."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy")

from axiom_protocol.manifest import Field, Manifest
from axiom_protocol.verdicts.findings import DECIDED_LOG_E, SEEDS_MIN
from axiom_protocol.verdicts.study_design import StudyDesign, read_study
from axiom_protocol.verdicts.study_numbers import (
    bounds_of,
    crossing,
    number_of,
)
from axiom_protocol.verdicts.study_verdicts import Cell, StudyData, judge_study
from axiom_server.decide.refine import middle, refined
from axiom_server.decide.seeds import (
    FIRST_BATCH,
    OpenFinding,
    Question,
    SeedDecision,
    decide_seeds,
    needed,
)

TEXT = """
name = "map"
experiment = "walk"
question = "?"
seeds = 60
[axes.x]
values = [1, 10, 100]
scale = "log"
[axes.y]
values = [0.0, 1.0, 2.0]
[[findings]]
name = "c"
claim = "c"
kind = "contrast"
field = "z"
high = { x = 100 }
low = { x = 1 }
criterion = { above = 0.0 }
min_share = 0.5
[[findings]]
name = "t"
claim = "t"
kind = "trend"
field = "z"
along = "x"
criterion = { above = 0.2 }
min_share = 0.5
[[findings]]
name = "b"
claim = "b"
kind = "boundary"
field = "z"
level = 0.5
along = "y"
over = "x"
criterion = { below = 0.0 }
min_share = 0.5
[refine]
finding = "b"
rounds = 1
"""
MANIFEST = Manifest(
    name="walk", version="1.0.0", title="w", question="?", expected_seconds=1,
    result={"valid": Field(kind="flag"), "configs_done": Field(), "z": Field(min=0.0, max=1.0)},
)  # fmt: skip


def design() -> StudyDesign:
    return read_study(TEXT)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=9, max_size=9))
def test_numbers_lie_within_their_bounds(values: list[float]) -> None:
    made, sets = design(), design().sets()
    for finding in made.findings:
        low, high = bounds_of(made, finding, sets, MANIFEST)
        number = number_of(made, finding, sets, values)
        assert number is not None
        assert low - 1e-9 <= number <= high + 1e-9
        assert math.isfinite(high - low)


def test_the_numbers_of_a_plane() -> None:
    """z = (log10 x + y) / 4: the border at one half falls by one for each decade of x."""
    made, sets = design(), design().sets()
    plane = [(math.log10(s["x"]) + s["y"]) / 4 for s in sets]
    numbers = [number_of(made, finding, sets, plane) for finding in made.findings]
    assert numbers == [pytest.approx(0.5), pytest.approx(0.25), pytest.approx(-1.0)]
    assert number_of(made, made.findings[0], sets, [None, *plane[1:]]) is None


def test_a_crossing_is_on_the_axis() -> None:
    assert crossing([(0, 0), (1, 1)], 0.25) == 0.25
    assert crossing([(0, 0.9), (1, 0.6)], 0.5) == 1, "it ends nearer to the level there"
    assert crossing([(0, 0.6), (1, 0.9)], 0.5) == 0
    assert crossing([(0, 0), (1, 1), (2, 0)], 0.5) == 1.0, "the mean of two places"


def test_sets_are_added_on_both_sides_of_the_boundary() -> None:
    made, sets = design(), design().sets()
    plane: list[float | None] = [(math.log10(s["x"]) + s["y"]) / 4.2 for s in sets]
    assert made.refine is not None
    added = refined(made, made.refine, sets, plane)
    assert sorted((s["x"], s["y"]) for s in added) == [(10, 1.5), (100, 0.5)]
    assert (middle(10, 1000, log=True), middle(1, 2, log=False)) == (100, 2)
    assert middle(0.1, 0.2, log=True) == 0.141421
    assert middle(1, 2.5, log=False) == middle(2.5, 1, log=False) == 1.75
    backwards = refined(made, made.refine, sets[::2] + sets[1::2], plane[::2] + plane[1::2])
    assert sorted((s["x"], s["y"]) for s in backwards) == [(10, 1.5), (100, 0.5)]


def test_a_mean_at_the_level_is_below_the_boundary() -> None:
    made, sets = design(), design().sets()
    assert made.refine is not None
    added = refined(made, made.refine, sets, [0.4 + s["y"] / 10 for s in sets])
    assert {s["y"] for s in added} == {1.5}


def data(slope: float, seeds: int = 60, **more: Any) -> StudyData:
    sets = design().sets()
    cells = [
        Cell(position=i, seed=seed, values={"z": 0.4 + slope * math.log10(s["x"]) + seed * 1e-4})
        for seed in range(seeds)
        for i, s in enumerate(sets)
    ]
    fields: dict[str, Any] = {"sets": sets, "seeds": range(60), "cells": cells, **more}
    return StudyData(design=design(), manifest=MANIFEST, **fields)


def test_verdicts_follow_the_data() -> None:
    assert judge_study(data(0.25))[0].verdict == "confirmed"
    assert judge_study(data(-0.15))[0].verdict in ("rejected", "fails seed by seed")
    assert {v.verdict for v in judge_study(data(0.25, out=3))} == {"preliminary"}
    assert {v.verdict for v in judge_study(data(0.25, seeds=3))} == {"insufficient"}


def test_missing_seeds_count_against_the_claim() -> None:
    found = judge_study(data(0.25, seeds=12))[0]
    assert (found.seeds, found.missing, found.verdict) == (12, 48, "preliminary")


def question(*findings: OpenFinding, **more: Any) -> Question:
    return Question(version_id=more.pop("version_id", 1), parameters=1, findings=findings, **more)


def test_a_budget_is_spent_where_a_seed_decides_most() -> None:
    near, far = (
        OpenFinding(name="near", seeds=40, log_e=3.0),
        OpenFinding(name="far", seeds=40, log_e=0.3),
    )
    one, two = question(far, version_id=1), question(near, near, version_id=2)
    chosen = decide_seeds([one, two], 1000)
    assert chosen.question == two
    assert chosen.seeds == 12, "(3.69 - 3) / (3 / 40), and a fifth more"
    assert chosen.findings == ("near", "near")


def test_a_budget_ends_or_waits() -> None:
    far = OpenFinding(name="far", seeds=40, log_e=0.3)
    for questions, left, reason, close in (
        ([question()], 10, "every finding is decided", True),
        ([question(far, out=2)], 500, "2 seeds not returned yet", False),
        ([question(far, pending=2)], 500, "another host is to confirm 2 results", False),
        ([question(far)], 0, "the budget is spent", True),
        ([question(far)], 1, "1 seed left, which would decide nothing more", True),
    ):
        expected = SeedDecision(question=None, reason=reason, close=close)
        assert decide_seeds(questions, left) == expected


def test_a_batch_is_no_larger_than_what_is_left_or_may_be_forecast() -> None:
    slow = OpenFinding(name="slow", seeds=40, log_e=0.6)
    assert needed(slow) > 200
    few = decide_seeds([question(slow)], 1000)
    assert few.seeds == 40, "as many as there are: the forecast is rough"
    new = OpenFinding(name="new", seeds=0, log_e=0.0)
    first = decide_seeds([question(new, version_id=1)], FIRST_BATCH)
    assert first.seeds == FIRST_BATCH
    assert decide_seeds([question(new, out=2), question(new, out=3)], 9).reason.startswith("5 ")


def test_an_axis_decides_how_its_middle_is_found() -> None:
    text = TEXT.replace('along = "y"', 'along = "x"').replace('over = "x"', 'over = "y"')
    made = read_study(text)
    assert made.refine is not None
    sets = made.sets()
    means = [1.0 if s["x"] == 100 else 0.0 for s in sets]
    added = refined(made, made.refine, sets, means)
    assert {s["x"] for s in added} == {32}, "half way from 10 to 100 in logarithms"


def test_how_many_seeds_a_finding_needs() -> None:
    for seeds, log_e, more in (
        (SEEDS_MIN - 1, 3.0, FIRST_BATCH),
        (SEEDS_MIN, 0.0, SEEDS_MIN),
        (50, 0.0, 50),
        (50, -1.0, 50),
        (50, DECIDED_LOG_E, SEEDS_MIN),
    ):
        assert needed(OpenFinding(name="f", seeds=seeds, log_e=log_e)) == more


def test_fewer_seeds_of_equal_worth_and_the_first_question_are_preferred() -> None:
    nearly = OpenFinding(name="nearly", seeds=50, log_e=DECIDED_LOG_E)
    new = OpenFinding(name="new", seeds=0, log_e=0.0)
    chosen = decide_seeds([question(nearly, new)], 1000)
    assert (chosen.seeds, chosen.findings) == (SEEDS_MIN, ("nearly",))
    two = [question(nearly, version_id=version) for version in (3, 2, 5)]
    assert decide_seeds(two, 1000).question == two[1]


def test_a_batch_is_at_most_as_large_as_what_there_is() -> None:
    for seeds, batch in ((SEEDS_MIN, SEEDS_MIN), (SEEDS_MIN + 7, SEEDS_MIN + 7)):
        slow = OpenFinding(name="slow", seeds=seeds, log_e=0.01)
        assert decide_seeds([question(slow)], 10**6).seeds == batch
