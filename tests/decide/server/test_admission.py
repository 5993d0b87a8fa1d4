"""Admission past saturation: the queue stays short, and the refused come back in turn."""

from __future__ import annotations

import heapq
import math

import pytest

from axiom_server.decide.admission import (
    RETURN_SECONDS_MAX,
    RETURNING_SHARE,
    WAIT_SECONDS,
    WAITING_MIN,
    Admission,
)

TICK_SECONDS = 0.5


def simulate(hosts: int, per_second: int) -> tuple[list[float], list[int], int]:
    """All hosts arrive at 0 at a server of this speed.

    Returns when each is answered, how often each was refused, and the longest queue.
    """
    admission = Admission(per_second=float(per_second))
    arrivals = [(0.0, host) for host in range(hosts)]
    answered, refused = [math.inf] * hosts, [0] * hosts
    waiting: list[int] = []
    longest, tick = 0, 0
    while arrivals or waiting:
        now = tick * TICK_SECONDS
        while arrivals and arrivals[0][0] <= now:
            at, host = heapq.heappop(arrivals)
            if wait := admission.wait(len(waiting), at):
                refused[host] += 1
                heapq.heappush(arrivals, (at + math.ceil(wait), host))
            else:
                waiting.append(host)
        longest = max(longest, len(waiting))
        done = waiting[: int(per_second * TICK_SECONDS)]
        waiting = waiting[len(done) :]
        for host in done:
            answered[host] = now
        tick += 1
    return answered, refused, longest


def test_a_quiet_server_refuses_nobody() -> None:
    admission = Admission(per_second=1.0)
    assert all(admission.wait(waiting, 0.0) == 0.0 for waiting in range(WAITING_MIN))


@pytest.mark.parametrize(("hosts", "per_second"), [(10_000, 400), (30_000, 2_000)])
def test_after_an_outage_all_hosts_are_answered_in_the_shortest_time_and_in_turn(
    hosts: int, per_second: int
) -> None:
    answered, refused, longest = simulate(hosts, per_second)
    assert longest <= per_second * WAIT_SECONDS + 1
    assert max(answered) <= hosts / per_second / RETURNING_SHARE + 2 * WAIT_SECONDS
    assert max(refused) <= 1  # a host that came back as told was not sent away again
    order = [host for _, host in sorted(zip(answered, range(hosts), strict=True))]
    assert order == list(range(hosts))  # nobody overtook a host that was refused before


def test_the_rate_is_learned_and_spaces_the_returns() -> None:
    admission = Admission()
    for _ in range(100):
        admission.record(answered=500, seconds=0.5)
    assert admission.per_second == pytest.approx(1000, rel=0.01)
    full = int(admission.per_second * WAIT_SECONDS) + 1
    first, second = admission.wait(full, 10.0), admission.wait(full, 10.0)
    assert first == pytest.approx(WAIT_SECONDS)
    assert second - first == pytest.approx(1 / (admission.per_second * RETURNING_SHARE))


def test_after_a_start_the_first_rate_is_believed_at_once() -> None:
    admission = Admission()
    admission.record(answered=25, seconds=0.5)
    assert admission.per_second == 50.0
    admission.record(answered=75, seconds=0.5)
    assert admission.per_second == 100.0


def test_nobody_is_sent_away_for_longer_than_the_most() -> None:
    admission = Admission(per_second=10.0)
    waits = [admission.wait(1_000, 0.0) for _ in range(50_000)]
    assert max(waits) <= RETURN_SECONDS_MAX
    assert admission.wait(1_000, 2 * RETURN_SECONDS_MAX) == pytest.approx(WAIT_SECONDS)


def test_a_stalled_server_keeps_a_rate_above_zero() -> None:
    admission = Admission()
    for _ in range(1000):
        admission.record(answered=1, seconds=60.0)
    assert admission.per_second >= 1.0
