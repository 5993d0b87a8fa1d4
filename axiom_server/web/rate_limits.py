"""Limit request rates by host and by address, before more than a request's head is read.

A host whose token was accepted before is counted only by its token, so that hosts behind one
address do not share a limit. All other requests (pages, bundles, joining, unknown tokens) are
counted by address. Each serving process has its own counts, which are lost when it ends.
"""

from __future__ import annotations

import ipaddress
import math
import re
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
IPV6_PREFIX = 64  # the prefix of one customer, who can choose the remaining bits freely
#: Providers give a customer a /48 (65,536 such networks) on request; joining is limited by both.
IPV6_SITE_PREFIX, SITE_SHARE = 48, 4.0
#: Data files that take a core up to seconds: all seeds of a finding, all data of an account.
COSTLY_FILE = re.compile(
    r"/(?:experiments|studies|sessions)/.+\.(?:csv|json|parquet|zip)|/account/data\.json"
)
#: Paths that contain a secret, which must not be logged.
SECRET_PATHS = "/account/link/"
LOG_SECONDS = 60.0  # at most one refusal is logged in this time


class RateLimits:
    """ASGI middleware that limits requests by host and by address."""

    def __init__(
        self, app: ASGIApp, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._clock = clock
        self._hosts = Meter(Rate(burst=limits.host_burst, per_second=limits.host_per_second))
        self._hosts_there = Meter(
            Rate(burst=limits.hosts_burst, per_second=limits.hosts_per_second)
        )
        self._files = Meter(Rate(burst=limits.files_burst, per_second=limits.files_per_second))
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
        address = network_of(scope)
        if host in self._hosts:
            wait, who = self._hosts.wait(host, now), "host"
            if not wait:
                wait, who = self._hosts_there.wait(address, now), "address"
        else:
            wait, who = self._wait_of_others(scope, address, now), "address"
            if not wait and host is not None:
                send = self._count_accepted(host, send)
        if wait:
            self._log(scope, who, now)
            await _refuse(send, who, wait)
            return
        await self._app(scope, receive, send)

    def _wait_of_others(self, scope: Scope, address: str, now: float) -> float:
        """Seconds to wait for a request that is not from a known host; 0 when it is allowed."""
        wait = self._addresses.wait(address, now)
        if not wait and scope["path"] == ENROL_PATH and scope["method"] == "POST":
            wait = self._joining.wait(address, now)
        if not wait and COSTLY_FILE.fullmatch(scope["path"]):
            wait = self._files.wait(address, now)
        return wait

    def _count_accepted(self, host: int, send: Send) -> Send:
        """Count a host by its token as soon as an answer has accepted the token."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                self._hosts.wait(host, self._clock())
            await send(message)

        return counting

    def _log(self, scope: Scope, who: str, now: float) -> None:
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            structlog.get_logger().warning(
                "rate limit exceeded", by=who, address=network_of(scope), path=_shown(scope["path"])
            )


def _shown(path: str) -> str:
    """A path for the log: without secrets, shortened."""
    return SECRET_PATHS + "..." if path.startswith(SECRET_PATHS) else path[:100]


def _token(scope: Scope) -> int | None:
    """A hash of the request's token, so that the token itself is not kept."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            return hash(value)
    return None


class JoinLimits:
    """Limits on joining hosts: from all addresses, and with a new account also from one address.

    These limits are in addition to RateLimits, which counts the requests.
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
        per_second = limits.accounts_per_hour / 3600
        self._accounts_by_address = Meter(Rate(burst=limits.accounts_burst, per_second=per_second))
        self._accounts_by_site = Meter(
            Rate(burst=int(SITE_SHARE * limits.accounts_burst), per_second=SITE_SHARE * per_second)
        )

    def admit(self, scope: Scope, new_account: bool) -> None:
        """Count a host that joins. Raises Refused: 429, with the time to wait."""
        now = self._clock()
        address = network_of(scope)
        counted = [("hosts", self._hosts, "everywhere")]
        if new_account:
            counted += [
                ("new accounts", self._accounts_by_address, address),
                ("new accounts", self._accounts_by_site, network_of(scope, IPV6_SITE_PREFIX)),
                ("new accounts", self._accounts, "everywhere"),
            ]
        for what, meter, key in counted:
            if wait := meter.debt(key, now, 1):
                where = "here" if key == "everywhere" else "from this address"
                hint = ", or join with an account key" if new_account else ""
                raise Refused(
                    429, f"Too many {what} {where}",
                    f"Try again after {math.ceil(wait)} seconds{hint}.", wait,
                )  # fmt: skip
        for _, meter, key in counted:
            meter.charge(key, now, 1)


def joined_from(scope: Scope) -> str:
    """The network that a host joins from; "" when it does not distinguish clients.

    An address that is not public belongs to a proxy that names no client, or to a local network.
    For IPv6 it is the /48; otherwise its owner could pass as 65,536 different people.
    """
    address = network_of(scope, IPV6_SITE_PREFIX)
    try:
        return address if ipaddress.ip_network(address).is_global else ""
    except ValueError:
        return ""


def network_of(scope: Scope, ipv6_prefix: int = IPV6_PREFIX) -> str:
    """The address by which a request is counted; for IPv6, its network."""
    client = scope.get("client")
    if client is None:
        return ""
    address: str = client[0]
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], ipv6_prefix), strict=False))
    except ValueError:  # an invalid text from a proxy; it can still serve as a key
        return address


async def _refuse(send: Send, who: str, wait: float) -> None:
    seconds = math.ceil(wait)
    problem = Problem(
        title=f"Too many requests from this {who}",
        detail=f"Try again after {seconds} seconds.",
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
