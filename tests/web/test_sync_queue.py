"""The syncs that wait in a serving process: refused beyond what is answered soon."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from axiom_server.decide.admission import WAITING_MIN
from axiom_server.web.refused import Refused
from axiom_server.web.sync_queue import BUSY_WAITING, SyncQueue

ADMITTED = 1_000  # of an unknown server: 200 a second for five seconds


def fill(queue: SyncQueue, stack: ExitStack, count: int) -> None:
    for _ in range(count):
        queue.admit()
        stack.enter_context(queue.waiting())


def test_a_full_queue_refuses_with_the_time_to_come_back() -> None:
    queue = SyncQueue(clock=lambda: 100.0)
    with ExitStack() as stack:
        fill(queue, stack, ADMITTED)
        with pytest.raises(Refused) as refusal:
            queue.admit()
    assert refusal.value.problem.status == 503
    assert refusal.value.headers == {"retry-after": "5"}
    queue.admit()  # all others have been answered


def test_a_body_that_does_not_arrive_takes_no_place() -> None:
    queue = SyncQueue(clock=lambda: 0.0)
    for _ in range(10 * ADMITTED):
        queue.admit()


def test_the_rate_of_a_busy_server_is_learned_and_that_of_an_idle_one_is_not() -> None:
    now = 0.0
    queue = SyncQueue(clock=lambda: now)
    with ExitStack() as stack:
        fill(queue, stack, BUSY_WAITING)
        for _ in range(500):  # 20 a second: a slow server
            now += 0.05
            queue.count_answer()
        fill(queue, stack, WAITING_MIN - BUSY_WAITING)
        with pytest.raises(Refused):
            queue.admit()
    idle = SyncQueue(clock=lambda: now)
    for _ in range(500):  # one host that asks 20 times a second
        now += 0.05
        idle.count_answer()
    with ExitStack() as stack:
        fill(idle, stack, WAITING_MIN + 1)
        idle.admit()
