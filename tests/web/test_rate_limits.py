"""Rate limits of one address, for many tokens, IPv6 networks and costly files."""

from __future__ import annotations

import asyncio

import pytest
import structlog
from starlette.types import Message, Receive, Scope, Send

from axiom_server.decide.rates import Limits
from axiom_server.web.rate_limits import JoinLimits, RateLimits, joined_from
from axiom_server.web.refused import Refused


async def accept(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def ask(app: RateLimits, path: str, token: str = "", address: str = "192.0.2.1") -> int:
    """The status of an answer."""
    headers = [(b"authorization", token.encode())] if token else []
    scope: Scope = {"type": "http", "method": "GET", "path": path, "headers": headers,
                    "client": (address, 1)}  # fmt: skip
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    asyncio.run(app(scope, receive, send))
    return int(sent[0]["status"])


def limited(**limits: float) -> RateLimits:
    return RateLimits(accept, Limits(**limits), clock=lambda: 0.0)  # type: ignore[arg-type]


def test_many_tokens_at_one_address_are_counted_together() -> None:
    app = limited(hosts_burst=10, host_burst=5)
    statuses = [ask(app, "/api/v1/sync", f"Bearer {n % 9}") for n in range(30)]
    assert statuses.count(200) <= 9 + 10
    assert ask(app, "/api/v1/sync", "Bearer 1", address="192.0.2.2") == 200


@pytest.mark.parametrize(
    "path",
    ["/experiments/a/1.0.0/f.parquet", "/experiments/a/1.0.0/crate.zip", "/account/data.json",
     "/studies/s/cells.csv"],
)  # fmt: skip
def test_costly_files_have_their_own_limit(path: str) -> None:
    app = limited(files_burst=3)
    assert [ask(app, path) for _ in range(5)] == [200] * 3 + [429] * 2
    assert ask(app, "/experiments/a/1.0.0") == 200


def test_no_log_holds_a_sign_in_link() -> None:
    app = limited(address_burst=1)
    with structlog.testing.capture_logs() as lines:
        statuses = [ask(app, "/account/link/a-secret") for _ in range(2)]
    assert statuses == [200, 429]
    assert len(lines) == 1
    assert "a-secret" not in str(lines)


def test_an_ipv6_site_counts_as_one_neighbour() -> None:
    limits = JoinLimits(Limits(accounts_burst=3), clock=lambda: 0.0)
    joined = 0
    for network in range(50):
        scope: Scope = {"client": (f"2a00:1:2:{network:x}::1", 1)}
        assert joined_from(scope) == "2a00:1:2::/48"
        try:
            limits.admit(scope, new_account=True)
            joined += 1
        except Refused:
            continue
    assert joined == 12
    limits.admit({"client": ("2a00:1:3::1", 1)}, new_account=True)
