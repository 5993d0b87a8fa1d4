"""Rate limits: a burst of requests at once, then so many per second. The time is an argument.

For each key (a host, an address) one number is kept: the time at which all its requests would have
been allowed at the steady rate (the "theoretical arrival time" of the generic cell rate algorithm).
A key whose time has passed has its full burst again, so it can be forgotten.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Struct

KEYS_MAX = 200_000  # about 20 MiB; beyond that, the least active keys are forgotten
ROUNDING_SECONDS = 1e-6  # rounding error of sums of floating-point clock times


Burst = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits for clients: request rates, time-outs and connections. A burst of 0 means no limit.

    host_*         requests of one host. An agent makes at most four a second
    address_*      requests of one address (IPv6: one /64): pages, bundles, and requests whose token
                   was not accepted since this process began
    hosts_*        requests of all known hosts at one address, because a client can get many tokens
    files_*        requests of one address for data files that take up to seconds to create
    host_bytes_*   bytes of one host's request bodies after decompression, which must be decoded
    enrolments_*   hosts that join from one address
    accounts_*     ... with a new account, for which no key is needed
    all_enrolments_*  hosts that join from all addresses together
    all_accounts_*    ... with a new account
    head_seconds   time to receive a request's first line and headers, also on a new connection
    body_seconds   time to receive its body: 8 MiB of reports at 0.6 Mbit/s
    answer_seconds a client that reads nothing of its response for this long is disconnected
    connections    connections open at once; fewer where the system allows fewer open files
    connections_per_address  connections of one address that is not a proxy
    proxies        addresses or networks whose X-Forwarded-For header is trusted; none by default
    """

    host_burst: Burst = 1000
    host_per_second: Positive = 10.0
    address_burst: Burst = 5000
    address_per_second: Positive = 50.0
    hosts_burst: Burst = 20_000
    hosts_per_second: Positive = 500.0
    files_burst: Burst = 60
    files_per_second: Positive = 0.5
    host_bytes_burst: Burst = 64 * 1024 * 1024
    host_bytes_per_second: Positive = 1024 * 1024.0
    enrolments_burst: Burst = 300
    enrolments_per_minute: Positive = 20.0
    accounts_burst: Burst = 30
    accounts_per_hour: Positive = 30.0
    all_enrolments_burst: Burst = 3000
    all_enrolments_per_minute: Positive = 300.0
    all_accounts_burst: Burst = 1000
    all_accounts_per_hour: Positive = 1000.0
    head_seconds: Positive = 15.0
    body_seconds: Positive = 120.0
    answer_seconds: Positive = 60.0
    connections: Annotated[int, Meta(ge=1)] = 10_000
    connections_per_address: Annotated[int, Meta(ge=1)] = 1000
    proxies: tuple[str, ...] = ()

    def refusal(self) -> str:
        """Why these limits are not valid; empty when they are."""
        for proxy in self.proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                return f"proxies: {proxy!r} is not an address or a network"
        return ""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """``burst`` requests at once, ``per_second`` on average; a burst of 0 means no limit."""

    burst: int
    per_second: float


class Meter:
    """Counts the requests of each key against one rate."""

    def __init__(self, rate: Rate, keys_max: int = KEYS_MAX) -> None:
        self._period = 1.0 / rate.per_second
        self._room = rate.burst * self._period
        self._keys_max = keys_max
        self._due: dict[Hashable, float] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._due

    def __len__(self) -> int:
        return len(self._due)

    def wait(self, key: Hashable, now: float) -> float:
        """0.0 when the request is allowed (it is then counted), else seconds until it would be."""
        wait = self.debt(key, now, 1)
        if not wait:
            self.charge(key, now, 1)
        return wait

    def debt(self, key: Hashable, now: float, amount: float = 0) -> float:
        """Seconds until ``amount`` more would be allowed. Nothing is counted."""
        if not self._room:
            return 0.0
        excess = self._due_with(key, now, amount) - now - self._room
        return excess if excess > ROUNDING_SECONDS else 0.0

    def charge(self, key: Hashable, now: float, amount: float) -> None:
        """Count ``amount`` even beyond the burst: it was not known before the request was read."""
        if not self._room:
            return
        self._due[key] = self._due_with(key, now, amount)
        if len(self._due) > self._keys_max:
            self._forget(now)

    def _due_with(self, key: Hashable, now: float, amount: float) -> float:
        return max(self._due.get(key, now), now) + amount * self._period

    def _forget(self, now: float) -> None:
        """Forget keys that have their full burst again, then the least active half if needed."""
        kept = sorted((due, n) for n, due in enumerate(self._due.values()) if due > now)
        least = kept[-self._keys_max // 2][0] if len(kept) > self._keys_max // 2 else now
        self._due = {key: due for key, due in self._due.items() if due > least}
