"""Check a host's token before its request body is read, and limit the bytes of its bodies."""

from __future__ import annotations

import time
from collections.abc import Callable

from axiom_server.decide.rates import Limits, Meter, Rate
from axiom_server.store import hosts
from axiom_server.store.database import Pool
from axiom_server.web.refused import Refused

KEPT_MAX = 100_000  # about 10 MiB; if there are more, the oldest are looked up again


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
        self._bytes = Meter(
            Rate(burst=limits.host_bytes_burst, per_second=limits.host_bytes_per_second)
        )

    async def check(self, token: bytes) -> None:
        """Raises Refused: 401 no host has this token, 429 its last bodies were too large."""
        if token not in self._known:
            async with self._pool.connection() as connection:
                if not await hosts.has_token(connection, token):
                    raise host_unknown()
            self._keep(token)
        if wait := self._bytes.debt(token, self._clock()):
            raise Refused(
                429, "Too many bytes from this host",
                f"Try again after {wait:.0f} seconds, with fewer reports at a time.", wait,
            )  # fmt: skip

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
