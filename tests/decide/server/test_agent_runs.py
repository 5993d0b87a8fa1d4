"""Copies of an agent are recognised; a restart never is taken for one."""

from __future__ import annotations

import pytest

from axiom_server.decide.agent_runs import (
    RUNS_MAX,
    Caller,
    KnownRun,
    decide_run,
    request_number,
)

SILENT_SECONDS = 150.0


class Line:
    """What the server knows of one host's runs, and a clock."""

    def __init__(self) -> None:
        self.runs: list[KnownRun] = []
        self.now = 1000.0

    def hear(
        self, run: str, number: int = 1, place: str | None = None, *, ending: bool = False
    ) -> str:
        self.now += 1
        caller = Caller(
            run=run, place=f"place of {run}" if place is None else place, number=number,
            ending=ending,
        )  # fmt: skip
        decision = decide_run(self.runs, caller, self.now, SILENT_SECONDS)
        self.runs = decision.runs
        return decision.verdict


def test_a_copy_waits_and_is_then_recognised() -> None:
    line = Line()
    assert [line.hear("a", 1), line.hear("b", 1), line.hear("b", 2)] == [
        "accepted", "waiting", "waiting",
    ]  # fmt: skip
    assert line.hear("a", 2) == "accepted"
    assert [line.hear("b", 3), line.hear("a", 3), line.hear("b", 4)] == ["copy", "accepted", "copy"]


def test_a_delayed_request_of_the_original_proves_nothing() -> None:
    line = Line()
    line.hear("a", 7)
    line.hear("b", 1)
    assert line.hear("a", 7) == "accepted"  # delayed on its way
    assert line.hear("b", 2) == "waiting"


@pytest.mark.parametrize("number", [0, 1])
def test_a_restart_in_the_same_place_is_accepted_at_once(number: int) -> None:
    line = Line()
    line.hear("a", 5, "here")
    assert line.hear("b", number, "here") == "accepted"
    assert line.hear("a", 5, "here") == "late"
    assert line.hear("b", 2, "here") == "accepted"


def test_a_restart_elsewhere_after_an_orderly_stop_is_accepted_at_once() -> None:
    """New hardware, or a container made anew."""
    line = Line()
    line.hear("a", 5, ending=True)
    assert line.hear("b") == "accepted"


def test_a_restart_elsewhere_after_a_power_cut_is_accepted_when_the_silence_is_long_enough() -> (
    None
):
    line = Line()
    line.hear("a", 5)
    assert line.hear("b", 1) == "waiting"
    line.now += SILENT_SECONDS
    assert line.hear("b", 2) == "accepted"
    assert line.hear("b", 3) == "accepted"


def test_an_original_that_returns_after_a_long_silence_becomes_the_new_host() -> None:
    line = Line()
    line.hear("a", 5)
    line.now += SILENT_SECONDS + 1
    assert line.hear("b", 1) == "accepted"
    assert [line.hear("a", 6), line.hear("b", 2), line.hear("a", 7)] == ["copy", "accepted", "copy"]


def test_a_copy_of_unknown_place_waits_too() -> None:
    line = Line()
    line.hear("a", 5, "")
    assert line.hear("b", 1, "") == "waiting"


def test_several_copies_are_all_recognised() -> None:
    line = Line()
    line.hear("a", 1)
    for name in "bcd":
        assert line.hear(name) == "waiting"
    line.hear("a", 2)
    assert [line.hear(name, 2) for name in "bcd"] == ["copy"] * 3


def test_the_remembered_runs_are_bounded_and_include_the_current_one() -> None:
    line = Line()
    line.hear("a", 1)
    for number in range(5 * RUNS_MAX):
        line.hear(f"x{number}")
    assert len(line.runs) == RUNS_MAX
    assert [run.run for run in line.runs if run.state == "current"] == ["a"]


@pytest.mark.parametrize(
    ("request_id", "number"),
    [("a-000017", 17), ("b-000017", 0), ("a-", 0), ("a-1x", 0), ("a-²", 0), ("leaving", 0)],
)
def test_the_number_of_a_request(request_id: str, number: int) -> None:
    assert request_number(request_id, "a") == number
