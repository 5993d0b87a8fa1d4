"""Check a host's token before its request body is read, and limit the bytes of its bodies."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable

from axiom_server.decide.rates import Limits, Meter, Rate
from axiom_server.store import syncing_hosts
from axiom_server.store.database import Pool
from axiom_server.web.refused import Refused

KEPT_MAX = 200_000  # about 20 MiB; if there are more, the oldest are looked up again
QUERY_TOKENS_MAX = 500  # looked up by one query: after a restart, no token is known


class KnownTokens:
    """A cache of the tokens (as hashes) that this process has found in the database.

    A token that another process has revoked may still be in the cache. Then it is refused after the
    body is read, by the transaction.
    """

    def __init__(
        self, pool: Pool, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._known: dict[bytes, None] = {}
        self._asked: dict[bytes, asyncio.Future[bool]] = {}
        self._worker: asyncio.Task[None] | None = None
        self._bytes = Meter(
            Rate(burst=limits.host_bytes_burst, per_second=limits.host_bytes_per_second)
        )

    def __contains__(self, token: bytes) -> bool:
        """Whether the token was found before."""
        return token in self._known

    async def check(self, token: bytes) -> None:
        """Raises Refused: 401 no host has this token, 429 its last bodies were too large."""
        if token not in self._known:
            if not await self._is_of_a_host(token):
                raise host_unknown()
            self._keep(token)
        if wait := self._bytes.debt(token, self._clock()):
            raise Refused(
                429, "Too many bytes from this host",
                f"Try again after {wait:.0f} seconds, with fewer reports at a time.", wait,
            )  # fmt: skip

    async def _is_of_a_host(self, token: bytes) -> bool:
        """Ask the database. Tokens that arrive during a query share the next one."""
        if token not in self._asked:
            self._asked[token] = asyncio.get_running_loop().create_future()
        answer = self._asked[token]
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._ask())
        return await asyncio.shield(answer)  # others may wait for the same answer

    async def _ask(self) -> None:
        while self._asked:
            batch = dict(itertools.islice(self._asked.items(), QUERY_TOKENS_MAX))
            found, problem = set[bytes](), None
            try:
                async with self._pool.connection() as connection:
                    found = await syncing_hosts.existing_tokens(connection, list(batch))
            except Exception as error:  # noqa: BLE001  it is passed on to those who wait
                problem = error
            for token, answer in batch.items():
                del self._asked[token]
                if problem is None:
                    answer.set_result(token in found)
                else:
                    answer.set_exception(problem)

    def charge(self, token: bytes, count: int) -> None:
        """Count the bytes of a body, unpacked."""
        self._bytes.charge(token, self._clock(), count)

    def forget(self, token: bytes) -> None:
        """Forget a token that has been revoked."""
        self._known.pop(token, None)

    def _keep(self, token: bytes) -> None:
        self._known[token] = None
        if len(self._known) > KEPT_MAX:
            del self._known[next(iter(self._known))]


def host_unknown() -> Refused:
    """The refusal of a token that no host has."""
    return Refused(401, "This host is not known here", "Attach it again: axiom-client attach URL")
