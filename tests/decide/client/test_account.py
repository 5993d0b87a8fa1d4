"""Settings of an account can only lower what a host's own configuration allows."""

from __future__ import annotations

from datetime import date, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.account import LOWERED_KEYS, Restriction, describe, lowered, origin_of
from axiom_client.decide.blocked import block_reason
from axiom_client.decide.capacity import allowed_cores, room
from axiom_client.decide.model import AccountControl, AgentState, Limits, Load
from axiom_client.decide.schedule import day, is_open
from axiom_protocol.messages import AccountSettings, GpuFacts, HostSettings
from tests.support.world import WALL, World, facts

spans = st.lists(
    st.tuples(st.integers(0, 10_079), st.integers(1, 1_440)).map(lambda s: (s[0], s[0] + s[1])),
    max_size=3,
)
shares = st.floats(0, 1)
settings = st.builds(
    HostSettings,
    paused=st.booleans(),
    draining=st.booleans(),
    cpu_share=st.none() | shares,
    cpu_cores=st.none() | st.integers(0, 300),
    gpus=st.none() | st.integers(0, 4),
    on_battery=st.none() | st.booleans(),
    schedule=spans,
)
limits = st.builds(
    Limits,
    cpu_share=shares,
    cpu_cores=st.integers(0, 300),
    gpus=st.booleans(),
    on_battery=st.booleans(),
    schedule=spans,
)
restrictions = st.lists(
    st.builds(
        Restriction,
        settings=settings,
        origin=st.just("set"),
        kept=st.lists(st.sampled_from(LOWERED_KEYS), max_size=2),
    ),
    max_size=4,
)
GPUS = [GpuFacts(uuid=f"GPU-{i}", name="A100", memory_bytes=1) for i in range(3)]
HALF = AccountSettings(revision="1", set_at=1.8e9, settings=[HostSettings(cpu_share=0.5)])


def contact(world: World, account: AccountSettings) -> list[c.Command]:
    """A person asks for contact, and the answer brings these settings."""
    world.do(e.SyncRequested(now=world.now))
    world.wait(1)
    return world.answer(account=account)


def running(world: World) -> int:
    """How many tasks run."""
    return sum(phase == "running" for phase in world.phases().values())


@given(limits, restrictions, st.integers(1, 256))
def test_no_settings_of_an_account_let_a_host_do_more(
    own: Limits, found: list[Restriction], cores: int
) -> None:
    now = lowered(own, found)
    assert allowed_cores(cores, now) <= allowed_cores(cores, own)
    assert not now.on_battery or own.on_battery
    host = msgspec.structs.replace(facts(), cpu_cores=cores, gpus=GPUS)
    usable, before = (room(host, Load(), x) for x in (now, own))
    assert {s.name for s in usable.cpu} <= {s.name for s in before.cpu}
    assert {s.name for s in usable.gpu} <= {s.name for s in before.gpu}
    changed = {"cpu_share", "cpu_cores", "gpus_max", "on_battery", "origins"}
    for name in set(Limits.__struct_fields__) - changed:
        assert getattr(now, name) == getattr(own, name)


@given(limits, st.lists(settings, max_size=3), st.integers(0, 10_079), st.booleans())
def test_hours_and_pauses_of_an_account_only_block(
    own: Limits, found: list[HostSettings], minute: int, control: bool
) -> None:
    state = AgentState(now=60.0 * minute, limits=own, own_limits=own)
    alone = block_reason(state)
    state.control = AccountControl(enabled=control)
    state.account = AccountSettings(revision="1", settings=found)
    together = block_reason(state)
    if not control:
        assert together == alone
    elif together is None:
        assert alone is None
        assert all(is_open(s.schedule, state.local) and not s.paused for s in found)


def test_half_of_the_cores_from_the_next_answer_on() -> None:
    world = World().working(2)
    assert running(world) == 2
    commands = contact(world, HALF)
    assert [p.task_id for p in commands if isinstance(p, c.PauseTask)]
    assert running(world) == 1
    [saved] = [s for s in commands if isinstance(s, c.SaveValue) and s.key == "account"]
    assert msgspec.convert(saved.value, AccountSettings) == HALF


def test_settings_in_force_are_reported_at_once() -> None:
    world = World().working(2)
    contact(world, HALF)
    world.wait(1)
    status = world.state.sync.in_flight.status if world.state.sync.in_flight else None
    assert status is not None
    assert status.revision == "1"
    [idle] = status.idle
    assert idle.reason == "kept free: cpu.share is 50%, set by your account on 2027-01-15"


def test_a_host_whose_config_refuses_ignores_the_settings_and_reports_it() -> None:
    world = World().working(2)
    world.do(e.ConfigChanged(now=world.now, limits=Limits(), control=AccountControl(enabled=False)))
    contact(world, HALF)
    assert running(world) == 2
    world.wait(1)
    plan = world.state.sync.in_flight
    assert plan is not None
    assert plan.status is not None
    assert plan.status.refuses


def test_a_kept_key_beats_the_account() -> None:
    kept = AccountControl(kept=["cpu.share"])
    world = World().working(2)
    world.do(e.ConfigChanged(now=world.now, limits=Limits(), control=kept))
    contact(world, HALF)
    assert running(world) == 2


def test_a_person_at_the_host_does_not_end_a_pause_of_the_account_but_the_account_does() -> None:
    world = World().working(2)
    pause = AccountSettings(revision="2", settings=[HostSettings(paused=True)])
    contact(world, pause)
    assert running(world) == 0
    world.do(e.ResumeRequested(now=world.now))
    assert running(world) == 0
    contact(world, AccountSettings(revision="3"))
    assert running(world) == 2


def test_the_account_does_not_end_a_persons_pause() -> None:
    world = World().working(2)
    world.do(e.PauseRequested(now=world.now))
    contact(world, AccountSettings(revision="3"))
    assert running(world) == 0


def test_a_drain_of_the_account_takes_no_work_and_gives_waiting_tasks_back() -> None:
    world = World().working(3)
    drain = AccountSettings(revision="2", settings=[HostSettings(draining=True)])
    contact(world, drain)
    assert world.phases() == {1: "running", 2: "running", 3: "ended"}


def test_a_mode_named_here_is_switched_on_and_off() -> None:
    world = World().working(2)
    gaming = HostSettings(cpu_share=0.5)
    world.do(e.ModeChosen(now=world.now, mode="gaming", settings=gaming))
    assert running(world) == 1
    world.do(e.ModeChosen(now=world.now, mode=""))
    assert running(world) == 2
    world.do(e.ModeChosen(now=world.now, mode="gaming"))
    assert running(world) == 1


def test_each_setting_lowers_its_own_limit_and_names_who_set_it() -> None:
    own = Limits(cpu_share=1.0, cpu_cores=4, gpus=True, gpus_max=1, on_battery=True)
    asked = HostSettings(cpu_cores=2, gpus=2, on_battery=None)
    found = lowered(own, [Restriction(settings=asked, origin="set")])
    assert (found.cpu_cores, found.gpus_max, found.on_battery) == (2, 1, True)
    assert found.origins == {"cpu.cores": "set"}, "one GPU is fewer than two"


@pytest.mark.parametrize(
    ("own", "asked", "changed", "key"),
    [
        (Limits(cpu_share=0.5), HostSettings(cpu_share=0.5), {}, ""),
        (Limits(cpu_share=0.5), HostSettings(cpu_share=0.4), {"cpu_share": 0.4}, "cpu.share"),
        (Limits(cpu_cores=2), HostSettings(cpu_cores=2), {}, ""),
        (Limits(cpu_cores=2), HostSettings(cpu_cores=1), {"cpu_cores": 1}, "cpu.cores"),
        (Limits(), HostSettings(cpu_cores=1), {"cpu_cores": 1}, "cpu.cores"),
        (Limits(cpu_share=0.5), HostSettings(cpu_cores=0), {"cpu_share": 0.0}, "cpu.cores"),
        (Limits(cpu_share=0.0), HostSettings(cpu_cores=0), {}, ""),
        (Limits(), HostSettings(gpus=2), {"gpus_max": 2}, "gpu.enabled"),
        (Limits(gpus_max=2), HostSettings(gpus=2), {}, ""),
        (Limits(gpus_max=2), HostSettings(gpus=0), {"gpus_max": 0}, "gpu.enabled"),
        (Limits(on_battery=True), HostSettings(on_battery=False),
         {"on_battery": False}, "run.on_battery"),
        (Limits(on_battery=True), HostSettings(on_battery=True), {}, ""),
        (Limits(on_battery=False), HostSettings(on_battery=False), {}, ""),
    ],
)  # fmt: skip
def test_a_limit_that_is_lowered_names_who_did_it_and_one_that_is_kept_does_not(
    own: Limits, asked: HostSettings, changed: dict[str, object], key: str
) -> None:
    own = msgspec.structs.replace(own, origins={"run.schedule": "the mode night"})
    expected = msgspec.structs.replace(own, **changed)
    if key:
        expected = msgspec.structs.replace(expected, origins={**own.origins, key: "set"})
    assert lowered(own, [Restriction(settings=asked, origin="set")]) == expected
    if key:
        assert lowered(own, [Restriction(settings=asked, origin="set", kept=[key])]) == own


@pytest.mark.parametrize(
    ("offset", "date_here"), [(0, "2023-11-14"), (7200, "2023-11-15"), (-86_400, "2023-11-13")]
)
def test_the_account_s_settings_have_the_date_here(offset: int, date_here: str) -> None:
    settings = AccountSettings(revision="1", set_at=WALL)  # at 22:13 in Greenwich
    assert origin_of(settings, offset) == f"set by your account on {date_here}"


def test_settings_in_words() -> None:
    everything = HostSettings(
        paused=True, draining=True, cpu_share=0.5, cpu_cores=2, gpus=1, on_battery=False,
        schedule=[(0, 60)],
    )  # fmt: skip
    words = [
        "paused", "draining", "cpu.share 50%", "cpu.cores 2", "GPUs 1", "not on battery",
        "within the hours set",
    ]  # fmt: skip
    assert describe(everything) == words
    assert describe(HostSettings()) == []
    for key, excluded in zip(LOWERED_KEYS, words[2:], strict=True):
        kept = AccountControl(kept=[key])
        assert describe(everything, kept) == [w for w in words if w != excluded]
    all_kept = AccountControl(kept=[*LOWERED_KEYS])
    assert describe(everything, all_kept) == ["paused", "draining"], "no limits of the config"


def test_a_mode_is_saved_when_it_is_named_and_when_it_is_chosen() -> None:
    world = World()
    gaming = HostSettings(cpu_cores=1)
    world.do(e.ModeChosen(now=world.now, mode="gaming", settings=gaming))
    world.do(e.ModeChosen(now=world.now, mode=""))
    saved = [(s.key, s.value) for s in world.saying(c.SaveValue) if s.key in ("modes", "mode")]
    named = {"gaming": msgspec.to_builtins(gaming)}
    assert saved == [("modes", named), ("mode", "gaming"), ("mode", None)]
    assert [entry.text for entry in world.saying(c.LogLine)][-2:] == [
        "switched to mode gaming", "mode ended",
    ]  # fmt: skip


@pytest.mark.parametrize("year", [1970, 1999, 2000, 2026, 2096, 2100, 2101, 2399, 2400])
def test_dates_are_those_of_the_calendar(year: int) -> None:
    first = (date(year, 1, 1) - date(1970, 1, 1)).days
    for number in range(first, first + 366):
        expected = (date(1970, 1, 1) + timedelta(days=number)).isoformat()
        assert day(number * 86_400.0 + 3600) == expected


def test_dates_beyond_the_calendar_are_the_nearest_in_it() -> None:
    """A server may send any number."""
    assert [day(seconds) for seconds in (-1.0, 1e15, float("inf"))] == [
        "1970-01-01", "9999-12-31", "9999-12-31",
    ]  # fmt: skip
