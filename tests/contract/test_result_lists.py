"""Lists of numbers are checked as a whole: with the same answer as one by one."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from axiom_protocol import result
from axiom_protocol.manifest import Field
from axiom_protocol.result import ResultRefused

VALUES = st.one_of(
    st.floats(), st.integers(), st.booleans(), st.none(), st.text(max_size=2),
    st.sampled_from([10**400, -(10**400), 1e301, -1e301, 1.0, 0, 2**60]),
)  # fmt: skip
BOUND = st.none() | st.floats(-10, 10)


def one_by_one(field: Field, items: list[object]) -> list[object] | str:
    try:
        return [result._number(f"x[{i}]", field, item) for i, item in enumerate(items)]
    except ResultRefused as refused:
        return str(refused)


def together(field: Field, items: list[object]) -> list[object] | str:
    try:
        found = result._field("x", field, items)
    except ResultRefused as refused:
        return str(refused)
    assert isinstance(found, list)
    return found


@given(items=st.lists(VALUES, max_size=6) | st.lists(st.floats(-20, 20)), low=BOUND, high=BOUND)
@example(items=[1.0, math.nan, 10**400], low=None, high=None)
@example(items=[math.nan, 1.0, -math.inf], low=-1.0, high=None)
@example(items=[1e300, -1e300], low=None, high=None)
def test_a_list_is_checked_as_its_items_are(
    items: list[object], low: float | None, high: float | None
) -> None:
    field = Field(dims=1, min=low, max=high, max_items=1000)
    found, expected = together(field, items), one_by_one(field, items)
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))


@pytest.mark.parametrize("kind", ["integer", "flag"])
def test_whole_numbers_are_converted_in_lists_too(kind: str) -> None:
    field = Field(dims=1, kind=kind, max_items=10)  # type: ignore[arg-type]
    found = together(field, [1.0, 0, 1])
    assert found == [1, 0, 1]
    assert [type(item) for item in found] == [int, int, int]


def test_the_list_is_the_checked_results_own() -> None:
    items: list[object] = [1.0, 2.0]
    assert together(Field(dims=1, max_items=10), items) is not items
