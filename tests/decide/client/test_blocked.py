"""Conditions that forbid work: their limits, how long they last, and since when they are said."""

from __future__ import annotations

import calendar
from typing import Any

import pytest

from axiom_client.config.quantities import read_schedule
from axiom_client.decide import events as e
from axiom_client.decide.blocked import block_reason, blocked_seconds, blocked_text, changes_at
from axiom_client.decide.model import AccountControl, Limits, Load, Pause
from axiom_protocol.messages import AccountSettings, HostSettings
from tests.support.world import WALL, World, facts, grant

HOUR = 3600.0
NIGHT = read_schedule("22:00-07:00")
EVENING = float(calendar.timegm((2026, 3, 2, 21, 0, 0)))  # a Monday


def measured(world: World, **load: Any) -> str:
    """The kind of reason why no task may run, with this load; empty when tasks may run."""
    world.do(e.LoadMeasured(now=world.now, load=Load(**load)))
    why = block_reason(world.state)
    return why.kind if why else ""


def account(settings: HostSettings) -> AccountSettings:
    return AccountSettings(revision="1", set_at=WALL, settings=[settings])


def with_account(settings: HostSettings, **started: Any) -> World:
    return World(facts(cores=1), account=account(settings), **started)


@pytest.mark.parametrize(
    ("limits", "allowed", "forbidden", "kind"),
    [
        ({"temperature_max": 80.0}, {"temperature": 80.0}, {"temperature": 80.1}, "heat"),
        ({"other_load_share": 0.5}, {"other_cores": 1.0}, {"other_cores": 1.1}, "others"),
        ({"disk_keep_free": 1e9}, {"disk_free_bytes": 10**9}, {"disk_free_bytes": 10**9 - 1},
         "disk"),
        ({}, {"on_battery": False}, {"on_battery": True}, "battery"),
        ({"while_in_use": False}, {"in_use": False}, {"in_use": True}, "presence"),
        ({"exclusive": ["steam"]}, {"exclusive": ""}, {"exclusive": "steam"}, "program"),
    ],
)  # fmt: skip
def test_what_is_just_allowed_and_what_is_not(
    limits: dict[str, Any], allowed: dict[str, Any], forbidden: dict[str, Any], kind: str
) -> None:
    world = World(facts(cores=2), limits=Limits(**limits))
    assert measured(world, **allowed) == ""
    assert measured(world, **forbidden) == kind
    assert world.state.blocked is not None
    assert world.state.blocked.kind == kind
    assert measured(world) == ""
    assert world.state.blocked is None


def test_a_hot_processor_must_cool_down_before_tasks_resume() -> None:
    world = World(limits=Limits(temperature_max=80.0))
    said = [measured(world, temperature=now) for now in (79.0, 81.0, 79.0, 75.1, 75.0, 79.0)]
    assert said == ["", "heat", "heat", "heat", "", ""]


def test_another_reason_does_not_count_as_cooling_down() -> None:
    world = World(limits=Limits(temperature_max=80.0))
    said = [measured(world, on_battery=on, temperature=78.0) for on in (True, False)]
    assert said == ["battery", ""]


def test_a_reason_has_lasted_since_it_began_not_since_another_did() -> None:
    offset = 3600
    limits = Limits(temperature_max=80.0)
    world = World(limits=limits, utc_offset_seconds=offset)
    world.do(e.LoadMeasured(now=world.now, load=Load(temperature=81.0)))
    assert blocked_text(world.state) == "paused: processor at 81 °C (limit 80 °C) since 23:13"
    world.wait(120)
    world.do(e.LoadMeasured(now=world.now, load=Load(temperature=84.0)))
    assert blocked_text(world.state) == "paused: processor at 84 °C (limit 80 °C) since 23:13"
    world.do(e.LoadMeasured(now=world.now, load=Load(on_battery=True)))
    assert blocked_text(world.state) == "paused: on battery since 23:15"


def test_a_pause_without_words_pauses_too() -> None:
    world = World(pause=Pause(reason=""))
    assert blocked_text(world.state) == "paused"


def test_what_the_account_asks_for_is_said_without_a_time_of_its_own() -> None:
    world = with_account(HostSettings(paused=True))
    world.wait(600)
    assert blocked_text(world.state) == "paused: set by your account on 2023-11-14"


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (NIGHT, "outside the hours until 22:00, set by your account on 2023-11-14"),
        ([(60, 60)], "outside the hours, set by your account on 2023-11-14"),  # never open
    ],
)
def test_hours_of_the_account_block_work_and_are_named(
    hours: list[tuple[int, int]], text: str
) -> None:
    world = with_account(HostSettings(schedule=hours), wall=EVENING)
    assert blocked_text(world.state) == f"paused: {text}"
    world.wait(HOUR)
    assert (blocked_text(world.state) == "") == (hours == NIGHT)


def test_the_first_closed_hours_are_named() -> None:
    """The account's are open in the evening; those of the mode are not."""
    evening = HostSettings(schedule=read_schedule("20:00-22:00"))
    world = with_account(evening, wall=EVENING)
    world.do(e.ModeChosen(now=world.now, mode="night", settings=HostSettings(schedule=NIGHT)))
    assert blocked_text(world.state) == "paused: outside the hours until 22:00, mode night"
    world.wait(HOUR)
    assert "until Tue 20:00, set by your account" in blocked_text(world.state)


# --- how long -------------------------------------------------------------------------------------


def test_how_long_tasks_stay_blocked_at_least() -> None:
    def seconds(**started: Any) -> float:
        return blocked_seconds(World(facts(cores=1), wall=EVENING, **started).state)

    never_open = HostSettings(schedule=[(60, 60)])
    assert seconds() == 0.0
    assert seconds(pause=Pause(reason="paused by you")) == 0.0
    assert seconds(pause=Pause(reason="x", until_wall=EVENING + 90.5)) == 90.5
    assert seconds(limits=Limits(schedule=read_schedule("20:00-22:00"))) == 0.0
    assert seconds(limits=Limits(schedule=NIGHT)) == HOUR
    later = AccountSettings(
        revision="1", settings=[HostSettings(schedule=read_schedule("23:00-24:00"))]
    )
    assert seconds(limits=Limits(schedule=NIGHT), account=later) == 2 * HOUR
    assert seconds(account=AccountSettings(revision="1", settings=[never_open])) == 0.0


def test_a_pause_whose_time_is_over_blocks_for_no_more_time() -> None:
    world = World(facts(cores=1), wall=EVENING)
    world.do(e.PauseRequested(now=world.now, for_seconds=60.0))
    world.state.now += 100
    assert blocked_seconds(world.state) == 0.0


def test_tasks_that_closed_hours_would_make_late_are_given_back() -> None:
    hours = Limits(schedule=read_schedule("20:00-21:30"))
    world = World(facts(cores=1), wall=EVENING, limits=hours).working(2)
    assert world.phases() == {1: "running", 2: "queued"}  # leases of an hour
    world.wait(HOUR / 2)
    assert world.phases() == {1: "paused", 2: "ended"}


def test_the_agent_wakes_when_hours_or_pauses_end() -> None:
    """Monotonic times, from local hours: the host is two hours east of Greenwich."""
    offset = 7200
    world = World(
        facts(cores=1, gpus=1), wall=EVENING - offset, utc_offset_seconds=offset,
        limits=Limits(schedule=NIGHT),
        account=account(HostSettings(schedule=read_schedule("20:00-21:30"))),
    )  # fmt: skip
    began = world.now
    assert changes_at(world.state) == [began + HOUR, began + HOUR / 2]
    world.do(e.PauseRequested(now=world.now, for_seconds=60.0))
    world.do(e.PauseRequested(now=world.now, for_seconds=90.0, gpu=0))
    assert changes_at(world.state)[:2] == [began + 60, began + 90]


def test_a_host_that_refuses_the_account_keeps_its_own_hours_only() -> None:
    world = with_account(
        HostSettings(schedule=NIGHT, paused=True), wall=EVENING,
        control=AccountControl(enabled=False),
    )  # fmt: skip
    world.answer(grant(1))
    assert block_reason(world.state) is None
    assert changes_at(world.state) == []


def test_hours_that_the_config_keeps_are_its_own() -> None:
    kept = AccountControl(kept=["run.schedule"])
    asked = HostSettings(schedule=NIGHT, cpu_share=0.5)
    world = with_account(asked, wall=EVENING, control=kept)
    assert block_reason(world.state) is None
    assert world.state.limits.cpu_share == 0.5


@pytest.mark.parametrize(("keep", "kept"), [(0.0, 0), (0.5, 100), (1.0, 1), (1.5, 1.5), (90, 90)])
def test_what_is_kept_free_is_a_share_below_one_and_bytes_from_one_on(
    keep: float, kept: float
) -> None:
    limits = Limits(memory_keep_free=keep, disk_keep_free=keep)
    assert limits.memory_kept_bytes(200) == limits.disk_kept_bytes(200) == kept
