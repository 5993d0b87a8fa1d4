"""Copies of an agent are recognised; a restart is never taken for a copy."""

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


class HostRuns:
    """The server's record of one host's runs, and a clock."""

    def __init__(self) -> None:
        self.runs: list[KnownRun] = []
        self.now = 1000.0

    def send(
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
    runs = HostRuns()
    assert [runs.send("a", 1), runs.send("b", 1), runs.send("b", 2)] == [
        "accepted", "waiting", "waiting",
    ]  # fmt: skip
    assert runs.send("a", 2) == "accepted"
    assert [runs.send("b", 3), runs.send("a", 3), runs.send("b", 4)] == ["copy", "accepted", "copy"]


def test_a_delayed_request_of_the_original_proves_nothing() -> None:
    runs = HostRuns()
    runs.send("a", 7)
    runs.send("b", 1)
    assert runs.send("a", 7) == "accepted"  # delayed on its way
    assert runs.send("b", 2) == "waiting"


@pytest.mark.parametrize("number", [0, 1])
def test_a_restart_in_the_same_place_is_accepted_at_once(number: int) -> None:
    runs = HostRuns()
    runs.send("a", 5, "here")
    assert runs.send("b", number, "here") == "accepted"
    assert runs.send("a", 5, "here") == "late"
    assert runs.send("b", 2, "here") == "accepted"


def test_an_earlier_run_whose_first_request_comes_late_makes_no_copy() -> None:
    """As when a server that stood still answers the requests of two runs in the wrong order."""
    runs = HostRuns()
    runs.send("a", 5, "here")
    assert runs.send("c", 1, "here") == "accepted"
    assert runs.send("b", 1, "here") == "accepted"  # it was sent before that of c
    assert runs.send("c", 2, "here") == "accepted"
    assert runs.send("b", 1, "here") == "late"
    assert runs.send("c", 3, "here") == "accepted"


def test_a_restart_elsewhere_after_an_orderly_stop_is_accepted_at_once() -> None:
    """New hardware, or a container created again."""
    runs = HostRuns()
    runs.send("a", 5, ending=True)
    assert runs.send("b") == "accepted"


def test_a_restart_elsewhere_after_a_power_cut_is_accepted_when_the_silence_is_long_enough() -> (
    None
):
    runs = HostRuns()
    runs.send("a", 5)
    assert runs.send("b", 1) == "waiting"
    runs.now += SILENT_SECONDS
    assert runs.send("b", 2) == "accepted"
    assert runs.send("b", 3) == "accepted"


def test_an_original_that_returns_after_a_long_silence_becomes_the_new_host() -> None:
    runs = HostRuns()
    runs.send("a", 5)
    runs.now += SILENT_SECONDS + 1
    assert runs.send("b", 1) == "accepted"
    assert [runs.send("a", 6), runs.send("b", 2), runs.send("a", 7)] == ["copy", "accepted", "copy"]


def test_a_copy_of_unknown_place_waits_too() -> None:
    runs = HostRuns()
    runs.send("a", 5, "")
    assert runs.send("b", 1, "") == "waiting"


def test_several_copies_are_all_recognised() -> None:
    runs = HostRuns()
    runs.send("a", 1)
    for name in "bcd":
        assert runs.send(name) == "waiting"
    runs.send("a", 2)
    assert [runs.send(name, 2) for name in "bcd"] == ["copy"] * 3


def test_the_remembered_runs_are_bounded_and_include_the_current_one() -> None:
    runs = HostRuns()
    runs.send("a", 1)
    for number in range(5 * RUNS_MAX):
        runs.send(f"x{number}")
    assert len(runs.runs) == RUNS_MAX
    assert [run.run for run in runs.runs if run.state == "current"] == ["a"]


@pytest.mark.parametrize(
    ("request_id", "number"),
    [
        ("a-000017", 17),
        ("a-b-17", 0),
        ("b-000017", 0),
        ("a-", 0),
        ("a-1x", 0),
        ("a-²", 0),
        ("leaving", 0),
    ],
)
def test_the_number_of_a_request(request_id: str, number: int) -> None:
    assert request_number(request_id, "a") == number


def test_a_run_may_have_a_hyphen_in_its_id() -> None:
    assert request_number("a-b-17", "a-b") == 17


def test_a_late_request_does_not_set_the_original_s_number_back() -> None:
    """Otherwise a copy that begins to wait is taken for one when the original repeats a request."""
    runs = HostRuns()
    runs.send("a", 9)
    runs.send("a", 4)  # delayed on its way
    runs.send("b", 1)
    assert runs.send("a", 9) == "accepted"
    assert runs.send("b", 2) == "waiting"


def test_a_copy_stays_one_when_another_run_becomes_the_current() -> None:
    runs = HostRuns()
    runs.send("a", 1)
    runs.send("b", 1)
    runs.send("a", 2)
    assert runs.send("b", 2) == "copy"
    runs.now += SILENT_SECONDS
    assert runs.send("c", 1) == "accepted"
    assert runs.send("b", 2) == "copy"


def test_a_run_that_waited_for_another_one_is_recognised_beside_the_new_one() -> None:
    """What counts is the number of the run that is the current one now."""
    runs = HostRuns()
    runs.send("a", 900)
    runs.send("b", 1)
    runs.now += SILENT_SECONDS
    assert runs.send("c", 1) == "accepted"
    assert runs.send("b", 2) == "waiting"
    assert runs.send("c", 2) == "accepted"
    assert runs.send("b", 3) == "copy"


def test_a_run_is_silent_for_long_enough_after_that_time_only() -> None:
    known = [KnownRun(run="a", state="current", seen_at=0.0)]
    caller = Caller(run="b", place="", number=1, ending=False)
    at = decide_run(known, caller, SILENT_SECONDS, SILENT_SECONDS)
    later = decide_run(known, caller, SILENT_SECONDS + 0.1, SILENT_SECONDS)
    assert (at.verdict, later.verdict) == ("waiting", "accepted")


def test_the_oldest_runs_are_forgotten() -> None:
    runs = HostRuns()
    runs.send("a", 1)
    for number in range(RUNS_MAX + 3):
        runs.send(f"x{number}")
    newest = {f"x{number}" for number in range(4, RUNS_MAX + 3)}
    assert {run.run for run in runs.runs} == {"a"} | newest
