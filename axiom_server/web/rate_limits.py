"""Rates by host and by address, before a request costs anything but its head.

A host whose token was accepted here is counted by that token alone, so that the hosts behind one
address do not pay for each other. All else (pages, bundles, joining, a token not seen yet) is
counted by address. Each serving process counts for itself, and forgets when it ends.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Callable

import msgspec
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from axiom_protocol.messages import Problem
from axiom_server.decide.rates import Limits, Meter, Rate
from axiom_server.web.refused import Refused

SYNC_PATH = "/api/v1/sync"
ENROL_PATH = "/api/v1/hosts"
IPV6_PREFIX = 64  # bits that one customer gets; the rest is his to vary
LOG_SECONDS = 60.0  # at most one line of the log in this time says that somebody was refused


class Limited:
    """The application behind limits on requests by host and by address."""

    def __init__(
        self, app: ASGIApp, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._clock = clock
        self._hosts = Meter(Rate(burst=limits.host_burst, per_second=limits.host_per_second))
        self._addresses = Meter(
            Rate(burst=limits.address_burst, per_second=limits.address_per_second)
        )
        self._joining = Meter(
            Rate(burst=limits.enrolments_burst, per_second=limits.enrolments_per_minute / 60)
        )
        self._logged_at = -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse with 429."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        now = self._clock()
        host = _token(scope) if scope["path"] == SYNC_PATH else None
        if host in self._hosts:
            wait, who = self._hosts.wait(host, now), "host"
        else:
            address = network_of(scope)
            wait, who = self._addresses.wait(address, now), "address"
            if not wait and scope["path"] == ENROL_PATH and scope["method"] == "POST":
                wait = self._joining.wait(address, now)
            if not wait and host is not None:
                send = self._count_accepted(host, send)
        if wait:
            self._log(scope, who, now)
            await _refuse(send, who, wait)
            return
        await self._app(scope, receive, send)

    def _count_accepted(self, host: int, send: Send) -> Send:
        """Count a host by its token from the first answer that accepts the token."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                self._hosts.wait(host, self._clock())
            await send(message)

        return counting

    def _log(self, scope: Scope, who: str, now: float) -> None:
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            structlog.get_logger().warning(
                "asked too often", by=who, address=network_of(scope), path=scope["path"][:100]
            )


def _token(scope: Scope) -> int | None:
    """A number for the token of a request: no secret is kept longer than the request."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            return hash(value)
    return None


class JoinLimits:
    """How many hosts may join, from one address and from everywhere; new accounts fewer.

    Limited has counted the request already; this counts what is about to be stored.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._hosts = Meter(
            Rate(
                burst=limits.all_enrolments_burst,
                per_second=limits.all_enrolments_per_minute / 60,
            )
        )
        self._accounts = Meter(
            Rate(burst=limits.all_accounts_burst, per_second=limits.all_accounts_per_hour / 3600)
        )
        self._accounts_by_address = Meter(
            Rate(burst=limits.accounts_burst, per_second=limits.accounts_per_hour / 3600)
        )

    def admit(self, scope: Scope, new_account: bool) -> None:
        """Count a host that joins. Raises Refused: 429 and when to come back."""
        now = self._clock()
        address = network_of(scope)
        counted = [("hosts", self._hosts, "everywhere")]
        if new_account:
            counted += [
                ("new accounts", self._accounts_by_address, address),
                ("new accounts", self._accounts, "everywhere"),
            ]
        for what, meter, key in counted:
            if wait := meter.debt(key, now, 1):
                where = "here" if key == "everywhere" else "from this address"
                hint = ", or join with an account key" if new_account else ""
                raise Refused(
                    429, f"Too many {what} {where}",
                    f"Come back after {math.ceil(wait)} seconds{hint}.", wait,
                )  # fmt: skip
        for _, meter, key in counted:
            meter.charge(key, now, 1)


def joined_from(scope: Scope) -> str:
    """The network that a host joins from; "" where it does not tell clients apart.

    An address that is not public is a proxy's that names no client, or of one's own network.
    """
    address = network_of(scope)
    try:
        return address if ipaddress.ip_network(address).is_global else ""
    except ValueError:
        return ""


def network_of(scope: Scope) -> str:
    """The address that a request is counted by; of IPv6 its network."""
    client = scope.get("client")
    if client is None:
        return ""
    address: str = client[0]
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], IPV6_PREFIX), strict=False))
    except ValueError:  # what a proxy wrote; it is a key all the same
        return address


async def _refuse(send: Send, who: str, wait: float) -> None:
    seconds = math.ceil(wait)
    problem = Problem(
        title=f"Too many requests from this {who}",
        detail=f"Come back after {seconds} seconds.",
        status=429,
    )
    raw = msgspec.json.encode(problem)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(raw)),
        (b"retry-after", b"%d" % seconds),
    ]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": raw})
