"""Gather syncs into batches: requests that arrive during a transaction share the next one.

One transaction costs ten round trips to PostgreSQL and a flush of its log; for thirty hosts it
costs hardly more than for one. A request that arrives alone does not wait for others.

A host that another transaction has locked (a review, another serving process) is left out of its
batch. It is answered in a later batch that waits for the lock, so that it delays no other host. A
batch that fails is repeated host by host, so that one host's error does not affect the others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from axiom_protocol.messages import SyncAnswer, SyncRequest
from axiom_server.config import Config
from axiom_server.store.database import LOCK_CONFLICTS, Pool
from axiom_server.sync.catalogue import Catalogue
from axiom_server.sync.transaction import SyncCall, SyncReplies, TokenUnknown, answer_syncs

BATCHES_AT_ONCE = 2  # while PostgreSQL works on one batch, this process works on the other
BATCH_HOSTS_MAX = 48  # in one batch
BATCH_TASKS_MAX = 1_500  # reports and free slots in one batch, so that the transaction stays short


@dataclass(frozen=True, kw_only=True)
class _PendingSync:
    call: SyncCall
    answer: asyncio.Future[SyncAnswer]

    def resolve(self, reply: SyncAnswer | Exception) -> None:
        """Deliver the answer or error, unless the request was cancelled."""
        if self.answer.done():
            return
        if isinstance(reply, Exception):
            self.answer.set_exception(reply)
        else:
            self.answer.set_result(reply)


@dataclass(kw_only=True)
class SyncBatcher:
    """Answers syncs in batches. One per serving process."""

    pool: Pool
    config: Config
    catalogue: Catalogue = field(init=False)
    _pending: deque[_PendingSync] = field(default_factory=deque)
    _locked: deque[_PendingSync] = field(default_factory=deque)
    _workers: list[asyncio.Task[None]] = field(default_factory=list)
    _locked_worker: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.catalogue = Catalogue()

    async def sync(self, token: bytes, request: SyncRequest) -> SyncAnswer:
        """Answer one host. Raises TokenUnknown, and what the database raises."""
        answer: asyncio.Future[SyncAnswer] = asyncio.get_running_loop().create_future()
        self._pending.append(
            _PendingSync(call=SyncCall(token=token, request=request), answer=answer)
        )
        self._workers = [worker for worker in self._workers if not worker.done()]
        if len(self._workers) < BATCHES_AT_ONCE:
            self._workers.append(asyncio.create_task(self._process(self._pending, wait=False)))
        return await answer

    async def _process(self, queue: deque[_PendingSync], *, wait: bool) -> None:
        while queue:
            await self._run_batch(next_batch(queue), wait=wait)

    async def _run_batch(self, batch: Sequence[_PendingSync], *, wait: bool) -> None:
        try:
            replies = await self._execute([pending.call for pending in batch], wait=wait)
        except Exception as error:  # noqa: BLE001  any error is passed on to the requests that wait
            if len(batch) > 1 and _may_succeed_alone(error):
                for pending in batch:
                    await self._run_batch([pending], wait=True)
            else:
                for pending in batch:
                    pending.resolve(error)
            return
        for pending in batch:
            token = pending.call.token
            if token in replies.locked:
                self._retry_when_unlocked(pending)
            else:
                pending.resolve(replies.answers.get(token) or TokenUnknown())

    async def _execute(self, calls: Sequence[SyncCall], *, wait: bool) -> SyncReplies:
        async with self.pool.connection() as connection:
            await self.catalogue.refresh(connection)
            async with connection.pipeline(), connection.transaction():
                return await answer_syncs(connection, self.catalogue, self.config, calls, wait=wait)

    def _retry_when_unlocked(self, pending: _PendingSync) -> None:
        self._locked.append(pending)
        if self._locked_worker is None or self._locked_worker.done():
            self._locked_worker = asyncio.create_task(self._process(self._locked, wait=True))


def next_batch(queue: deque[_PendingSync]) -> list[_PendingSync]:
    """Take the next batch: the longest waiting first, each host once, within the size limits."""
    batch: list[_PendingSync] = []
    tokens: set[bytes] = set()
    postponed: list[_PendingSync] = []
    tasks = 0
    while queue and len(batch) < BATCH_HOSTS_MAX:
        pending = queue[0]
        request = pending.call.request
        tasks += 1 + len(request.reports) + request.capacity.cpu_slots_free
        if batch and tasks > BATCH_TASKS_MAX:
            break
        queue.popleft()
        if pending.answer.done():  # its request was cancelled
            continue
        if pending.call.token in tokens:
            postponed.append(pending)
            continue
        tokens.add(pending.call.token)
        batch.append(pending)
    queue.extendleft(reversed(postponed))
    return batch


def _may_succeed_alone(error: Exception) -> bool:
    """Whether the syncs could succeed one by one: not when the database is down or full."""
    return not isinstance(error, psycopg.OperationalError) or isinstance(error, LOCK_CONFLICTS)
