"""Rate limits: a burst at once, then the steady rate, for any pattern and any number of keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axiom_server.decide.rates import Limits, Meter, Rate


def admitted(meter: Meter, times: list[float], key: object = "a") -> list[float]:
    return [now for now in times if meter.wait(key, now) == 0]


def test_a_burst_then_the_rate_then_the_burst_again() -> None:
    meter = Meter(Rate(burst=5, per_second=2.0))
    assert len(admitted(meter, [0.0] * 50)) == 5
    assert meter.wait("a", 0.0) == pytest.approx(0.5)  # when the next would be let in
    assert len(admitted(meter, [1.0] * 50)) == 2
    assert len(admitted(meter, [100.0] * 50)) == 5


def test_keys_have_separate_limits() -> None:
    meter = Meter(Rate(burst=1, per_second=1.0))
    assert meter.wait("a", 0.0) == 0
    assert meter.wait("a", 0.0) > 0
    assert meter.wait("b", 0.0) == 0


def test_a_burst_of_zero_means_no_limit() -> None:
    meter = Meter(Rate(burst=0, per_second=1.0))
    assert len(admitted(meter, [0.0] * 1000)) == 1000
    assert len(meter) == 0


@given(
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=200),
    burst=st.integers(1, 20),
    per_second=st.floats(0.1, 50),
)
def test_no_window_lets_more_through_than_it_should(
    gaps: list[float], burst: int, per_second: float
) -> None:
    now, times = 0.0, []
    for gap in gaps:
        now += gap
        times.append(now)
    let_in = admitted(Meter(Rate(burst=burst, per_second=per_second)), times)
    assert let_in[0] == times[0]
    for first, since in enumerate(let_in):
        for last in range(first, len(let_in)):
            most = burst + per_second * (let_in[last] - since)
            assert last - first + 1 <= most + 1e-6


def test_many_keys_use_bounded_memory_and_active_keys_are_not_forgotten() -> None:
    meter = Meter(Rate(burst=10, per_second=1.0), keys_max=100)
    for _ in range(10):
        assert meter.wait("busy", 0.0) == 0
    for stranger in range(10_000):
        meter.wait(stranger, 0.0)
        assert len(meter) <= 100
    assert meter.wait("busy", 0.0) > 0


def test_the_defaults_are_beyond_what_agents_do() -> None:
    limits = Limits()
    agent_per_second = 1 / 0.25  # axiom_client.decide.sync.SPACING_SECONDS
    assert limits.host_per_second > agent_per_second
    assert limits.refusal() == ""
    assert "proxies" in Limits(proxies=("nginx",)).refusal()


def test_no_key_is_forgotten_before_there_are_too_many() -> None:
    meter = Meter(Rate(burst=1, per_second=1.0), keys_max=3)
    for key in range(3):
        meter.wait(key, 0.0)
    assert [key in meter for key in range(4)] == [True, True, True, False]
    meter.wait(3, 0.0)
    assert len(meter) <= 3


def test_proxies_are_addresses_or_networks() -> None:
    assert Limits(proxies=("127.0.0.1", "10.0.0.0/8", "::1")).refusal() == ""
    bad = Limits(proxies=("127.0.0.1", "proxy.example"))
    assert bad.refusal() == "proxies: 'proxy.example' is not an address or a network"


def test_a_full_burst_is_no_debt_until_one_more_is_asked_for() -> None:
    meter = Meter(Rate(burst=5, per_second=1.0))
    meter.charge("a", 0.0, 5)
    assert meter.debt("a", 0.0) == 0
    assert meter.debt("a", 0.0, 1) == pytest.approx(1.0)


def charged(now: float, idle: int, active: int) -> set[object]:
    """The keys that are left of a meter for ten: idle ones, then active ones, each more so."""
    meter = Meter(Rate(burst=100, per_second=1.0), keys_max=10)
    for number in range(idle):
        meter.charge(f"idle {number}", 0.0, 1)
    for number in range(active):
        meter.charge(number, now, 1 + number)
    return {key for key in [*range(active), "idle 0"] if key in meter}


def test_the_least_active_keys_are_forgotten_when_there_are_too_many() -> None:
    assert charged(50.0, idle=0, active=10) == set(range(10))
    assert charged(50.0, idle=0, active=11) == {7, 8, 9, 10}
    for active in (2, 4, 5):
        assert charged(50.0, idle=11 - active, active=active) == set(range(active))
