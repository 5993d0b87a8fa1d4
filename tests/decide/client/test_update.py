"""Which release is fetched, started, kept or undone."""

from __future__ import annotations

import msgspec
import pytest

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.take_up import WAIT_SECONDS
from axiom_client.decide.update import (
    FAILURES_MAX,
    RETRY_SECONDS,
    STARTS_MAX,
    Ended,
    Failure,
    Installation,
    Release,
    Start,
    Undone,
    UpdateRecord,
    choose,
    describe,
    is_newer,
    judge,
    keep,
    next_start,
    stage,
    undo,
    unneeded,
    why_undone,
)
from tests.support.world import World, facts, of

HERE = Installation(system="linux-x86_64", python="3.11", journal_format=1)
NOW = 1_000_000.0


def release(version: str, **fields: object) -> Release:
    return msgspec.structs.replace(Release(version=version, sha256=version, length=1), **fields)


def failed(count: int, at_wall: float) -> UpdateRecord:
    return UpdateRecord(failures={"0.3.0": Failure(count=count, at_wall=at_wall, why="it hung")})


@pytest.mark.parametrize(
    ("version", "than", "newer"),
    [
        ("0.3.0", "0.2.9", True),
        ("0.10.0", "0.9.0", True),  # numbers, not text
        ("0.3.0", "0.3.0", False),
        ("0.2.9", "0.3.0", False),
        ("0.3.0", "", True),
        ("", "0.3.0", False),
        ("0.4.0rc1", "0.3.0", False),  # no version of a release
        ("0.4", "0.3.0", False),
        ("0.4.-1", "0.3.0", False),
        ("0.4.²", "0.3.0", False),
    ],
)
def test_which_version_is_newer(version: str, than: str, newer: bool) -> None:
    assert is_newer(version, than) is newer


@pytest.mark.parametrize(
    ("offered", "record", "chosen", "problem"),
    [
        ([], UpdateRecord(), None, ""),
        ([release("0.3.0")], UpdateRecord(), "0.3.0", ""),
        # never older, and never the same again
        ([release("0.1.9"), release("0.2.0")], UpdateRecord(), None, ""),
        ([release("0.3.0")], UpdateRecord(current="0.3.0"), None, ""),
        ([release("0.3.0")], UpdateRecord(staged="0.4.0"), None, ""),
        ([release("0.3.0"), release("0.10.0")], UpdateRecord(), "0.10.0", ""),
        # what does not fit is left out, with its reason, and an older one that fits is taken
        ([release("0.3.0", system="darwin-arm64")], UpdateRecord(), None, "it is for darwin-arm64"),
        ([release("0.3.0", python_from="3.12")], UpdateRecord(), None, "it needs Python 3.12"),
        ([release("0.3.0", python_below="3.11")], UpdateRecord(), None, "older than 3.11"),
        ([release("0.3.0", python_from="3.9", python_below="3.12")], UpdateRecord(), "0.3.0", ""),
        ([release("0.3.0", journal_format=2)], UpdateRecord(), None, "a journal of format 2"),
        (
            [release("0.4.0", python_from="3.12"), release("0.3.0")],
            UpdateRecord(), "0.3.0", "0.4.0 is left out",
        ),
        # one that failed waits for a day, and is not tried for ever
        ([release("0.3.0")], failed(1, NOW - RETRY_SECONDS + 1), None, "tried again after a day"),
        ([release("0.3.0")], failed(1, NOW - RETRY_SECONDS), "0.3.0", ""),
        ([release("0.3.0")], failed(FAILURES_MAX, 0.0), None, "it failed 3 times here"),
        ([release("0.3.1")], failed(FAILURES_MAX, 0.0), "0.3.1", ""),
    ],
)  # fmt: skip
def test_which_release_is_fetched(
    offered: list[Release], record: UpdateRecord, chosen: str | None, problem: str
) -> None:
    choice = choose(offered, "0.2.0", HERE, record, NOW)
    assert (choice.release.version if choice.release else None) == chosen
    assert problem in choice.problem
    assert bool(problem) == bool(choice.problem)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"system": "darwin-arm64"}, "it is for darwin-arm64, and this is linux-x86_64"),
        ({"python_from": "3.12"},
         "it needs Python 3.12 or newer, and this is 3.11; install it by hand with that Python"),
        ({"python_from": "3.9", "python_below": "3.11"},
         "it needs Python 3.9 or newer and older than 3.11, and this is 3.11; "
         "install it by hand with that Python"),
        ({"journal_format": 2},
         "it writes a journal of format 2, which 1 could not read if it were undone; "
         "install it by hand"),
    ],
)  # fmt: skip
def test_why_a_release_is_left_out(changes: dict[str, object], why: str) -> None:
    choice = choose([release("0.3.0", **changes)], "0.2.0", HERE, UpdateRecord(), NOW)
    assert choice.problem == f"0.3.0 is left out: {why}"


def test_only_the_first_two_numbers_of_a_python_decide() -> None:
    fits = release("0.3.0", python_from="3.11.9", python_below="3.12.1")
    assert choose([fits], "0.2.0", HERE, UpdateRecord(), NOW).release == fits


def test_an_archive_for_this_system_is_preferred() -> None:
    offered = [release("0.3.0", sha256="z"), release("0.3.0", system=HERE.system, sha256="a")]
    choice = choose(offered, "0.2.0", HERE, UpdateRecord(), NOW)
    assert choice.release is not None
    assert choice.release.system == HERE.system


@pytest.mark.parametrize(
    ("record", "start"),
    [
        (UpdateRecord(), Start(version="0.2.0", release=False)),
        (UpdateRecord(current="0.3.0"), Start(version="0.3.0", release=True)),
        (UpdateRecord(current="0.3.0", staged="0.4.0"),
         Start(version="0.4.0", release=True, trial=True)),
        # the volunteer has installed a newer one by hand
        (UpdateRecord(current="0.1.5"), Start(version="0.2.0", release=False)),
        (UpdateRecord(current="0.1.4", staged="0.1.5"), Start(version="0.2.0", release=False)),
        (UpdateRecord(staged="0.2.0"), Start(version="0.2.0", release=False)),
    ],
)  # fmt: skip
def test_what_is_started(record: UpdateRecord, start: Start) -> None:
    assert next_start(record, "0.2.0", NOW)[1] == start


def test_a_release_that_is_not_newer_any_more_is_forgotten_with_its_starts() -> None:
    record = UpdateRecord(current="0.1.4", staged="0.1.5", starts=2)
    assert next_start(record, "0.2.0", NOW)[0] == UpdateRecord(current="0.1.4")


def test_a_staged_release_begins_without_starts_and_problems() -> None:
    record = stage(UpdateRecord(staged="0.3.0", starts=2, problem="away"), "0.3.1")
    assert record == UpdateRecord(staged="0.3.1")


def test_failures_are_counted_and_forgotten_with_a_newer_healthy_release() -> None:
    record = UpdateRecord()
    for count in (1, 2, 3):
        record = undo(stage(record, "0.3.0"), "0.3.0", "0.2.0", "it hung", NOW + count)
        assert record.failures == {
            "0.3.0": Failure(count=count, at_wall=NOW + count, why="it hung")
        }  # fmt: skip
        assert (record.current, record.staged, record.starts) == ("", "", 0)
    record = undo(stage(record, "0.5.0"), "0.5.0", "0.2.0", "it hung", NOW)
    assert list(keep(stage(record, "0.4.0"), "0.4.0").failures) == ["0.5.0"]


def test_what_was_healthy_is_staged_no_more() -> None:
    started, _ = next_start(stage(UpdateRecord(), "0.3.0"), "0.2.0", NOW)
    assert started.starts == 1
    assert keep(started, "0.3.0") == UpdateRecord(current="0.3.0")


def test_a_release_that_stops_the_computer_is_undone_after_some_starts() -> None:
    record = stage(UpdateRecord(), "0.3.0")
    for number in range(1, STARTS_MAX + 1):
        record, start = next_start(record, "0.2.0", NOW)  # and then the power fails
        assert (start.version, record.starts) == ("0.3.0", number)
    record, start = next_start(record, "0.2.0", NOW)
    assert start == Start(version="0.2.0", release=False)
    assert record.undone is not None
    assert record.undone.back_to == "0.2.0"
    assert record.failures["0.3.0"].count == 1


def test_a_healthy_release_is_kept_with_the_one_before() -> None:
    record = stage(UpdateRecord(current="0.3.0", previous="0.2.5"), "0.4.0")
    record = keep(record, "0.4.0")
    assert (record.current, record.previous, record.staged) == ("0.4.0", "0.3.0", "")
    assert unneeded(record, ["0.2.5", "0.3.0", "0.4.0"]) == ["0.2.5"]


def test_what_is_staged_meanwhile_is_not_taken_for_what_is_healthy() -> None:
    record = keep(stage(stage(UpdateRecord(), "0.3.0"), "0.4.0"), "0.3.0")
    assert (record.current, record.staged) == ("0.3.0", "0.4.0")
    record = undo(stage(stage(UpdateRecord(), "0.3.0"), "0.4.0"), "0.3.0", "0.2.0", "hung", NOW)
    assert record.staged == "0.4.0"


@pytest.mark.parametrize(
    ("current", "previous", "named", "back_to"),
    [
        ("", "", [], "0.2.0"),
        ("0.3.0", "0.2.5", ["0.2.5", "0.3.0"], "0.3.0"),
        ("0.3.0", "0.2.5", ["0.2.5"], "0.2.5"),  # staff have withdrawn 0.3.0
        ("0.3.0", "0.2.5", [], "0.2.0"),  # what the volunteer installed
        ("0.3.0", "0.1.5", ["0.1.5"], "0.2.0"),
    ],
)
def test_where_a_host_goes_back_to(
    current: str, previous: str, named: list[str], back_to: str
) -> None:
    record = UpdateRecord(current=current, previous=previous, staged="0.4.0", named=named)
    record = undo(record, "0.4.0", "0.2.0", "it hung", NOW)
    assert record.undone == Undone(version="0.4.0", back_to=back_to, at_wall=NOW, why="it hung")
    assert next_start(record, "0.2.0", NOW)[1].version == back_to


def test_a_current_release_that_was_damaged_is_not_gone_back_to() -> None:
    record = UpdateRecord(current="0.3.0", previous="0.2.5", named=["0.2.5", "0.3.0"])
    record = undo(record, "0.3.0", "0.2.0", "the file a.py is missing", NOW)
    assert next_start(record, "0.2.0", NOW)[1].version == "0.2.5"


TRIAL = Start(version="0.3.0", release=True, trial=True)
SETTLED = Start(version="0.3.0", release=True)


@pytest.mark.parametrize(
    ("start", "ended", "verdict"),
    [
        (TRIAL, Ended(code=None, asked=False, healthy=False), "undo"),
        (TRIAL, Ended(code=1, asked=False, healthy=False), "undo"),
        (TRIAL, Ended(code=-9, asked=False, healthy=False), "undo"),
        (TRIAL, Ended(code=25, asked=False, healthy=False, updates=True), "undo"),
        (TRIAL, Ended(code=0, asked=False, healthy=False), "end"),  # --until-idle, --seconds
        (TRIAL, Ended(code=1, asked=False, healthy=True), "end"),  # as any version that works
        (TRIAL, Ended(code=25, asked=False, healthy=True, updates=True), "start"),
        (SETTLED, Ended(code=25, asked=False, healthy=True, updates=True), "start"),
        (SETTLED, Ended(code=25, asked=False, healthy=False, updates=True), "start"),
        (SETTLED, Ended(code=1, asked=False, healthy=True), "end"),
        # a stop that somebody asked for is nobody's failure
        (TRIAL, Ended(code=-15, asked=True, healthy=False), "end"),
        (TRIAL, Ended(code=1, asked=True, healthy=False), "end"),
        (SETTLED, Ended(code=25, asked=True, healthy=True, updates=True), "end"),
    ],
)
def test_what_follows_from_an_end(start: Start, ended: Ended, verdict: str) -> None:
    assert judge(start, ended) == verdict


@pytest.mark.parametrize(
    ("ended", "why"),
    [
        (Ended(code=None, asked=False, healthy=False), "healthy within 600 s"),
        (Ended(code=-9, asked=False, healthy=False), "signal 9"),
        (Ended(code=3, asked=False, healthy=False), "exit code 3"),
        (Ended(code=0, asked=False, healthy=False), "exit code 0"),
    ],
)
def test_the_reason_in_words(ended: Ended, why: str) -> None:
    assert why in why_undone(ended, 600.0)


def test_what_is_shown() -> None:
    assert describe(UpdateRecord(), "0.2.0") == []
    [line] = describe(stage(UpdateRecord(), "0.3.0"), "0.2.0")
    assert "0.3.0 is staged" in line
    [line] = describe(stage(UpdateRecord(), "0.3.0"), "0.3.0")
    assert "0.3.0 is on trial" in line
    record = undo(stage(UpdateRecord(), "0.3.0"), "0.3.0", "0.2.0", "it hung", NOW)
    assert describe(record, "0.2.0") == ["axiom-client 0.3.0 was undone, back to 0.2.0: it hung"]
    assert describe(keep(stage(record, "0.3.1"), "0.3.1"), "0.3.1") == []


# --- between tasks --------------------------------------------------------------------------------


def staged(world: World, version: str = "0.3.0") -> list[c.Command]:
    return world.do(e.UpdateStaged(now=world.now, version=version))


def exits(world: World) -> list[str]:
    return [command.fault for command in world.saying(c.Exit)]


def test_an_idle_agent_ends_for_the_update_at_once() -> None:
    world = World().working(0)
    staged(world)
    world.hear_nothing()
    assert exits(world) == ["update"]


def test_running_tasks_are_finished_and_reported_and_waiting_ones_given_back() -> None:
    world = World(facts(cores=2)).working(3)
    assert world.phases() == {1: "running", 2: "running", 3: "queued"}
    staged(world)
    assert world.phases()[3] == "ended"  # for another host
    world.ended(1)
    world.hear_nothing()
    assert not of(world.saying(c.StartTask)[2:], c.StartTask)
    assert exits(world) == []
    world.ended(2)
    world.hear_nothing()
    assert exits(world) == ["update"]
    assert world.phases() == {}


def test_no_work_is_asked_for_while_a_release_waits() -> None:
    world = World().working(1)
    staged(world)
    world.do(e.SyncRequested(now=world.now))
    plan = world.state.sync.in_flight
    assert plan is not None
    assert (plan.capacity.cpu_slots_free, plan.capacity.buffer_seconds) == (0, 0.0)
    assert "0.3.0 starts when no task runs" in plan.draining


def test_a_long_task_is_stopped_at_its_checkpoint_and_kept() -> None:
    world = World().working(1)
    staged(world)
    world.wait(WAIT_SECONDS / 2)
    staged(world, "0.3.1")  # the first wait is not prolonged
    world.wait(WAIT_SECONDS / 2 - 1)
    assert world.saying(c.StopTask) == []
    world.wait(2)
    assert [command.task_id for command in world.saying(c.StopTask)] == [1]
    world.ended(1, "cancelled")
    world.hear_nothing()
    assert world.phases() == {1: "queued"}
    assert exits(world) == ["update"]


def test_a_stop_that_somebody_asks_for_is_no_update() -> None:
    world = World().working(1)
    staged(world)
    world.do(e.StopRequested(now=world.now, reason="received SIGTERM"))
    world.ended(1, "cancelled")
    world.hear_nothing()
    assert exits(world) == [""]
