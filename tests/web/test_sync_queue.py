"""The syncs that wait in a serving process: refused beyond what is answered soon."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
import psycopg
import pytest

from axiom_protocol.messages import Capacity, SyncRequest
from axiom_server.decide.admission import PER_SECOND_START, WAIT_SECONDS, WAITING_MIN
from axiom_server.store.users import digest
from axiom_server.web.refused import Refused
from axiom_server.web.sync_queue import BUSY_WAITING, SyncQueue
from tests.support.page_client import with_client
from tests.support.server_project import ServerProject

ADMITTED = int(PER_SECOND_START * WAIT_SECONDS)  # of a server whose rate is not known yet


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


def test_strangers_take_no_place_of_known_hosts(project: ServerProject, tmp_path: Path) -> None:
    """All of them wait for a locked table; the known host waits too and is not sent away."""
    key, host = "the key of a host", project.host(user="ann")
    with psycopg.connect(project.conninfo) as connection:
        connection.execute(
            "UPDATE hosts SET token = %s WHERE host_id = %s", (digest(key), host.host_id)
        )

    async def work(client: httpx.AsyncClient) -> None:
        assert (await sync(client, key)).status_code == 200
        async with await psycopg.AsyncConnection.connect(project.conninfo) as other:
            await other.execute("LOCK TABLE hosts")
            strangers = [
                asyncio.create_task(sync(client, f"stranger-{number}"))
                for number in range(ADMITTED + 5)
            ]
            sent_away, _ = await asyncio.wait(strangers, timeout=60, return_when="FIRST_COMPLETED")
            known = asyncio.create_task(sync(client, key))
            await asyncio.sleep(0.2)
            assert not known.done()
        assert (await known).status_code == 200
        assert {task.result().status_code for task in sent_away} == {503}
        answers = await asyncio.gather(*strangers)
        assert [answer.status_code for answer in answers].count(401) == ADMITTED

    with_client(project.conninfo, tmp_path, work)


async def sync(client: httpx.AsyncClient, key: str) -> httpx.Response:
    request = SyncRequest(request_id="a-request", capacity=Capacity(cpu_slots=0))
    return await client.post(
        "/api/v1/sync",
        content=msgspec.json.encode(request),
        headers={"Authorization": f"Bearer {key}"},
    )
