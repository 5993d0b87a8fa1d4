"""Requests and answers: when a request is sent, what it says, and what an answer changes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.kept_results import KEPT_SECONDS, RECORD_BYTES
from axiom_client.decide.model import AccountControl, CreditDay, KeptResult, Limits, SyncPlan
from axiom_client.decide.retry import retry_bundle, retry_sync
from axiom_client.decide.sync import (
    COALESCE_SECONDS,
    REPORT_BYTES_MAX,
    SPACING_SECONDS,
    UNACKNOWLEDGED_SECONDS,
    credit_today,
    due_at,
    has_room,
)
from axiom_protocol.messages import (
    GRANTS_MAX,
    IDENTITY_COPIED,
    REPORTS_MAX,
    AccountSettings,
    Acknowledgement,
    Capacity,
    Credit,
    HostSettings,
)
from tests.support.world import WALL, World, facts, grant, of

HOUR = 3600.0
NO_ROOM = Capacity(cpu_slots=0, gpu_slots=0, cpu_slots_free=0, gpu_slots_free=0)


def contact(world: World) -> SyncPlan:
    """A person asks for contact; the request that is sent."""
    world.do(e.SyncRequested(now=world.now))
    world.wait(SPACING_SECONDS)
    plan = world.state.sync.in_flight
    assert plan is not None
    return plan


def answered(world: World, *grants: Any, **answer: Any) -> list[c.Command]:
    """The same, and the answer to it."""
    contact(world)
    return world.answer(*grants, **answer)


def account(*settings: HostSettings) -> AccountSettings:
    return AccountSettings(revision="7", set_at=WALL, settings=list(settings))


# --- when -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capacity", "room"),
    [
        ({}, False),
        ({"cpu_slots_free": 1}, True),
        ({"gpu_slots_free": 1}, True),
        ({"buffer_seconds": 1.0}, True),
    ],
)
def test_which_capacity_asks_for_work(capacity: dict[str, Any], room: bool) -> None:
    assert has_room(msgspec.structs.replace(NO_ROOM, **capacity)) is room


@pytest.mark.parametrize(
    ("free", "report_waits", "seconds"),
    [
        ({}, False, 600.0),  # as the server asked
        ({"buffer_seconds": 60.0}, False, 0.0),
        ({"cpu_slots_free": 1}, False, 0.0),
        ({"buffer_seconds": 60.0}, True, 1.0),  # the buffer waits for the report's request
        ({"cpu_slots_free": 1}, True, 0.0),
        ({"gpu_slots_free": 1}, True, 0.0),
        ({}, True, 1.0),
    ],
)
def test_free_slots_are_filled_at_once_and_a_low_buffer_with_the_next_report(
    free: dict[str, Any], report_waits: bool, seconds: float
) -> None:
    world = World(facts(cores=2)).working(12)  # a long queue: the agent asks for nothing
    if report_waits:
        world.ended(1)
    world.do(e.TimerFired(now=world.now))
    begin = world.now if report_waits or not seconds else world.state.sync.answered_at
    capacity = msgspec.structs.replace(NO_ROOM, **free)
    assert due_at(world.state, capacity) == begin + seconds


def test_a_report_that_was_not_acknowledged_is_sent_again_later() -> None:
    world = World(facts(cores=1)).working(1)
    world.ended(1)
    world.answer(acknowledged=[])
    assert not of(world.wait(UNACKNOWLEDGED_SECONDS), c.Sync)
    [sync] = of(world.wait(COALESCE_SECONDS), c.Sync)
    assert (sync.plan.report_ids, sync.plan.capacity.cpu_slots_free) == ([1], 1)


def test_work_is_asked_for_though_a_report_was_not_acknowledged() -> None:
    """And though no task runs yet: the one that was granted waits for its bundle."""
    world = World(facts(cores=2)).working(1)
    world.ended(1)
    commands = world.answer(grant(2, sha256="b" * 64), acknowledged=[])
    [sync] = of(commands + world.wait(SPACING_SECONDS), c.Sync)
    assert (sync.plan.report_ids, sync.plan.capacity.cpu_slots_free) == ([1], 1)
    world.answer(acknowledged=[])
    assert not of(world.wait(UNACKNOWLEDGED_SECONDS), c.Sync), "the server has no work"


def test_a_report_that_was_not_acknowledged_does_not_hold_up_the_next_one() -> None:
    world = World(facts(cores=2)).working(2)
    world.ended(1)
    world.wait(1)
    world.ended(2)
    commands = world.answer(acknowledged=[])
    [sync] = of(commands + world.wait(SPACING_SECONDS), c.Sync)
    assert sync.plan.report_ids == [1, 2]


def test_between_an_answer_and_the_next_request_is_a_quarter_of_a_second() -> None:
    world = World(facts(cores=2))
    commands = world.answer(grant(1))  # one core is still free
    assert not of(commands + world.wait(SPACING_SECONDS - 0.01), c.Sync)
    assert of(world.wait(0.01), c.Sync)


# --- what it says ---------------------------------------------------------------------------------


def test_requests_are_numbered_and_tell_the_facts_once() -> None:
    world = World()
    first = world.state.sync.in_flight
    assert first is not None
    assert first.host == world.state.facts
    world.answer()
    second, third = contact(world), (world.answer(), contact(world))[1]
    assert [plan.request_id[-6:] for plan in (first, second, third)] == [
        "000001", "000002", "000003",
    ]  # fmt: skip
    assert (second.host, third.host) == (None, None)
    world.answer()
    world.do(e.FactsProbed(now=world.now, facts=facts(cores=3)))
    assert contact(world).host == facts(cores=3)


def test_the_states_of_tasks_in_hand() -> None:
    world = World(facts(cores=2)).working(4)
    world.do(e.AbortRequested(now=world.now, task_id=2))
    states = {task.task_id: task.state for task in contact(world).in_hand}
    assert states == {1: "running", 2: "running", 3: "queued", 4: "queued"}
    world.answer()
    world.do(e.PauseRequested(now=world.now))
    assert {task.state for task in contact(world).in_hand} == {"paused", "running", "queued"}


def reports_of(world: World, *sizes: int) -> list[int]:
    """The reports in the next request, when tasks have ended with results of these sizes."""
    for task_id, size in enumerate(sizes, 1):
        task = world.state.tasks[task_id]
        world.state.tasks[task_id] = msgspec.structs.replace(
            task, phase="ended", outcome="success", report_bytes=size
        )
    return contact(world).report_ids


def test_a_request_has_as_many_reports_as_fit_and_one_at_least() -> None:
    half = REPORT_BYTES_MAX // 2
    assert reports_of(World().working(3), half, half, 1) == [1, 2]
    assert reports_of(World().working(3), half, half, 0) == [1, 2, 3]
    assert reports_of(World().working(3), half, half + 1, 0) == [1]
    assert reports_of(World().working(3), 9 * half, 1, 1) == [1]


def test_a_request_has_so_many_reports_and_no_more() -> None:
    many = REPORTS_MAX + 1
    world = World()
    for first in range(0, many, GRANTS_MAX):
        answered(world, *[grant(i + 1) for i in range(first, min(many, first + GRANTS_MAX))])
    assert reports_of(world, *[0] * many) == [*range(1, many)]


# --- what an answer changes -----------------------------------------------------------------------


def test_grants_keep_their_order_over_answers_and_repeated_ones_change_nothing() -> None:
    world = World(facts(cores=1)).working(3)
    answered(world, grant(2), grant(7), grant(5))
    orders = {i: task.record.order for i, task in world.state.tasks.items()}
    assert orders == {1: 0, 2: 1, 3: 2, 7: 3, 5: 4}
    assert world.said("granted") == [("info", "3 tasks granted")] * 2


def test_an_answer_after_failures_is_said_and_ends_them() -> None:
    world = World()
    world.do(e.SyncFailed(now=world.now, problem="away", jitter=0.5))
    world.wait(2)
    world.answer()
    assert world.said("again") == [
        ("warning", "no contact: away; tasks go on and contact is tried again"),
        ("info", "the server answers again"),
    ]
    answered(world)
    assert len(world.said("answers again")) == 1
    assert (world.state.sync.failures, world.state.sync.problem) == (0, "")


def test_more_than_an_agent_keeps_is_said_as_a_warning() -> None:
    world = World()
    world.answer(*[grant(i) for i in range(1, GRANTS_MAX + 2)])
    assert world.said("refused") == [
        ("warning", "1 of 2001 granted tasks are refused: more than an agent keeps")
    ]  # fmt: skip
    assert World().said("refused") == []


def test_only_reports_of_this_request_are_acknowledged_by_its_answer() -> None:
    """Whatever a server says: of a task that runs, or that ended after the request was sent."""
    world = World(facts(cores=2)).working(4)
    contact(world)
    world.ended(1)
    world.answer(acknowledged=[Acknowledgement(task_id=i) for i in (1, 2, 99)])
    assert world.phases() == {1: "ended", 2: "running", 3: "running", 4: "queued"}
    contact(world)
    world.ended(2)
    world.answer(acknowledged=[Acknowledgement(task_id=i) for i in (99, 2, 1)])
    assert world.phases() == {2: "ended", 3: "running", 4: "running"}
    contact(world)
    world.answer(acknowledged=[Acknowledgement(task_id=i) for i in (1, 2)])
    assert world.phases() == {3: "running", 4: "running"}


def test_a_copy_ends_and_decides_nothing_more() -> None:
    world = World().working(2)
    commands = answered(world, identity=IDENTITY_COPIED)
    assert [exit_.reason for exit_ in of(commands, c.Exit)] == [
        "this folder is a copy of another agent's"
    ]
    assert world.wait(HOUR) == []
    world.do(e.PauseRequested(now=world.now))
    assert not world.saying(c.PauseTask)


def test_a_host_that_is_refused_decides_nothing_more() -> None:
    world = World()
    world.do(e.SyncFailed(now=world.now, problem="unknown", fatal=True, jitter=0.5))
    assert world.state.exited
    assert not of(world.do(e.SyncRequested(now=world.now)), c.Sync)


# --- failures -------------------------------------------------------------------------------------


def test_a_problem_is_said_once_and_another_one_again() -> None:
    world = World()
    for problem in ("away", "away", "timed out"):
        world.do(e.SyncFailed(now=world.now, problem=problem, jitter=0.5))
        world.now = world.state.sync.not_before
        world.do(e.TimerFired(now=world.now))
    assert [text for _, text in world.said("no contact")] == [
        "no contact: away; tasks go on and contact is tried again",
        "no contact: timed out; tasks go on and contact is tried again",
    ]


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    world = World()
    world.do(e.SyncFailed(now=world.now, problem="503", jitter=0.5, retry_after_seconds=100.0))
    assert not of(world.wait(99), c.Sync)
    assert of(world.wait(1), c.Sync)


def test_waits_double_up_to_their_bound() -> None:
    syncs = [retry_sync(0.0, n, 0.5, 0.0).at for n in range(1, 12)]
    assert syncs == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    bundles = [retry_bundle(0.0, n, 0.5) for n in range(1, 11)]
    assert [again.at if again else None for again in bundles] == [
        5, 10, 20, 40, 80, 160, 320, 600, 600, None,
    ]  # fmt: skip
    assert [retry_sync(10.0, 1, jitter, 0.0).at for jitter in (0.0, 1.0)] == [11.0, 13.0]


# --- the account ----------------------------------------------------------------------------------


def test_settings_of_the_account_are_said() -> None:
    world = World()
    half = account(HostSettings(cpu_share=0.5))
    answered(world, account=half)
    answered(world, account=half)
    answered(world, account=account())
    assert [text for _, text in world.said("account")] == [
        "limits set by your account on 2023-11-14",
        "your account sets no limits for this host",
    ]


def test_a_host_that_refuses_the_account_says_that_its_settings_are_ignored() -> None:
    world = World(control=AccountControl(enabled=False))
    answered(world, account=account(HostSettings(cpu_share=0.5)))
    assert [text for _, text in world.said("account")] == [
        "limits set by your account on 2023-11-14 are ignored: account.control is false"
    ]


def test_new_settings_are_measured_and_asked_with_at_once() -> None:
    world = World(limits=Limits(on_battery=True))
    world.answer()
    assert world.state.sync.out_of_work
    commands = answered(world, account=account(HostSettings(on_battery=False)))
    assert [measure.presence for measure in of(commands, c.MeasureLoad)] == [True]
    assert of(world.wait(SPACING_SECONDS), c.Sync)
    assert world.saying(c.Sync)[-1].plan.capacity.cpu_slots_free == 2


# --- credit ---------------------------------------------------------------------------------------


def test_the_credit_of_the_next_day_begins_at_midnight_here() -> None:
    """The host is two hours east of Greenwich; the clock shows 00:13."""
    world = World(utc_offset_seconds=7200)
    answered(world, credit=Credit(host_total=100.0))
    world.wait(23.7 * HOUR)
    answered(world, credit=Credit(host_total=110.0))
    assert credit_today(world.state) == 10.0
    world.wait(0.2 * HOUR)  # the next day
    assert credit_today(world.state) == 0.0
    answered(world, credit=Credit(host_total=112.0))
    assert credit_today(world.state) == 2.0
    days = [s.value for s in world.saying(c.SaveValue) if s.key == "credit_day"]
    assert [msgspec.convert(day, CreditDay).host_total for day in days] == [100.0, 110.0]


# --- kept results ---------------------------------------------------------------------------------


def test_a_kept_result_counts_with_its_record() -> None:
    world = World(facts(cores=1))
    world.answer(grant(1), epoch="one")
    world.fetched()
    world.ended(1)
    size = world.state.tasks[1].report_bytes
    world.wait(2)
    world.answer(epoch="one", answered_at=5.0)
    assert world.state.kept == {
        1: KeptResult(task_id=1, acknowledged_at=5.0, kept_wall=world.state.wall,
                      size_bytes=size + RECORD_BYTES)
    }  # fmt: skip


@pytest.mark.parametrize(("age", "dropped"), [(KEPT_SECONDS, 0), (KEPT_SECONDS + 1, 1)])
def test_a_result_is_kept_for_a_week(age: float, dropped: int) -> None:
    kept = KeptResult(task_id=1, acknowledged_at=9.0, kept_wall=WALL - age, size_bytes=1)
    world = World(kept=[kept], epoch="one")
    assert len(of(world.answer(epoch="one"), c.DropResults)) == dropped


@pytest.mark.parametrize(
    ("acknowledged_at", "line"),
    [
        (900.0, "1 result reported again"),  # at the very time of the backup: it may lack it
        (899.9, "0 results reported again"),
    ],
)
def test_a_restored_server_is_said_as_a_warning(acknowledged_at: float, line: str) -> None:
    kept = KeptResult(task_id=1, acknowledged_at=acknowledged_at, kept_wall=WALL, size_bytes=1)
    world = World(kept=[kept], epoch="one")
    world.answer(epoch="two", restored_from=900.0)
    assert world.said("restored") == [
        ("warning", f"the server was restored from a backup; {line}")
    ]  # fmt: skip
