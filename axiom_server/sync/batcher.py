"""Syncs gathered into transactions: who comes while one is under way goes along in the next.

A transaction for each host costs ten round trips to PostgreSQL and a flush of its log; for thirty
hosts together it costs hardly more. A host that comes alone does not wait for others.

A host that another transaction holds (a review, another serving process) is left out and goes
again with the others like it in a turn that waits; so it keeps nobody else waiting. A turn that
fails is made again host by host: one host's bad luck is not another's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from axiom_protocol.messages import SyncAnswer, SyncRequest
from axiom_server.config import Config
from axiom_server.store.database import Pool
from axiom_server.sync.catalogue import Catalogue
from axiom_server.sync.transaction import Asked, Said, TokenUnknown, exchange_all

LANES = 2  # turns under way: while PostgreSQL works on one, this process works on the other
HOSTS_MAX = 48  # in one turn
TASKS_MAX = 1_500  # reports and free slots in one turn, so that it stays short

#: Another transaction was in the way; alone, and a moment later, it may go.
IN_THE_WAY = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.LockNotAvailable,
)


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    asked: Asked
    answer: asyncio.Future[SyncAnswer]

    def settle(self, said: SyncAnswer | Exception) -> None:
        """Hand over the answer, if its request is still there."""
        if self.answer.done():
            return
        if isinstance(said, Exception):
            self.answer.set_exception(said)
        else:
            self.answer.set_result(said)


@dataclass(kw_only=True)
class Turns:
    """One per serving process."""

    pool: Pool
    config: Config
    catalogue: Catalogue = field(init=False)
    _free: deque[_Waiting] = field(default_factory=deque)
    _held: deque[_Waiting] = field(default_factory=deque)
    _lanes: list[asyncio.Task[None]] = field(default_factory=list)
    _held_lane: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.catalogue = Catalogue(live_seconds=self.config.deploy.live_minutes * 60)

    async def sync(self, token: bytes, request: SyncRequest) -> SyncAnswer:
        """Answer one host. Raises TokenUnknown, and what the database raises."""
        answer: asyncio.Future[SyncAnswer] = asyncio.get_running_loop().create_future()
        self._free.append(_Waiting(asked=Asked(token=token, request=request), answer=answer))
        self._lanes = [lane for lane in self._lanes if not lane.done()]
        if len(self._lanes) < LANES:
            self._lanes.append(asyncio.create_task(self._work(self._free, wait=False)))
        return await answer

    async def _work(self, queue: deque[_Waiting], *, wait: bool) -> None:
        while queue:
            await self._turn(take(queue), wait=wait)

    async def _turn(self, batch: Sequence[_Waiting], *, wait: bool) -> None:
        try:
            said = await self._transact([one.asked for one in batch], wait=wait)
        except Exception as error:  # noqa: BLE001  whatever it is, it goes to those who wait
            if len(batch) > 1 and _not_the_database(error):
                for one in batch:
                    await self._turn([one], wait=True)
            else:
                for one in batch:
                    one.settle(error)
            return
        for one in batch:
            token = one.asked.token
            if token in said.held:
                self._again(one)
            else:
                one.settle(said.answers.get(token) or TokenUnknown())

    async def _transact(self, asked: Sequence[Asked], *, wait: bool) -> Said:
        async with self.pool.connection() as connection:
            await self.catalogue.refresh(connection)
            async with connection.pipeline(), connection.transaction():
                return await exchange_all(connection, self.catalogue, self.config, asked, wait=wait)

    def _again(self, one: _Waiting) -> None:
        self._held.append(one)
        if self._held_lane is None or self._held_lane.done():
            self._held_lane = asyncio.create_task(self._work(self._held, wait=True))


def take(queue: deque[_Waiting]) -> list[_Waiting]:
    """The next turn: the longest waiting first, each host once, no more than a turn should hold."""
    batch: list[_Waiting] = []
    tokens: set[bytes] = set()
    later: list[_Waiting] = []
    tasks = 0
    while queue and len(batch) < HOSTS_MAX:
        one = queue[0]
        request = one.asked.request
        tasks += 1 + len(request.reports) + request.capacity.cpu_slots_free
        if batch and tasks > TASKS_MAX:
            break
        queue.popleft()
        if one.answer.done():  # nobody waits for it any more
            continue
        if one.asked.token in tokens:
            later.append(one)
            continue
        tokens.add(one.asked.token)
        batch.append(one)
    queue.extendleft(reversed(later))
    return batch


def _not_the_database(error: Exception) -> bool:
    """Whether hosts could fare better one by one: not when the database is gone or full."""
    return not isinstance(error, psycopg.OperationalError) or isinstance(error, IN_THE_WAY)
