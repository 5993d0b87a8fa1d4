"""Names of accounts: no two that look the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from axiom_server.decide.names import refusal
from axiom_server.store import session_sums, sessions, users
from axiom_server.store.database import connect
from tests.support.cluster import fresh_database, transaction
from tests.support.server_project import ServerProject


@pytest.fixture
def conninfo(postgres: str) -> Iterator[str]:
    with fresh_database(postgres) as made:
        yield made


def make(conninfo: str, name: str) -> bool:
    key = users.digest(name)
    return transaction(conninfo, lambda c: users.create(c, name, key)) is not None


LOOK_THE_SAME = [
    ("alice", "ali\u200dce"),  # zero-width joiner
    ("alice", "ali\u200cce"), ("alice", "alice\ufe0f"), ("alice", "a\u034flice"),
    ("alice", "\u202ealice"), ("alice", "al\u00adice"), ("alice", "\uff41\uff4c\uff49\uff43\uff45"),
    ("аlice", "alice"),  # Cyrillic a
    ("сор", "cop"), ("ΑΒΕ", "ABE"), ("Zo\u00eb", "Zoe\u0308"), ("user1", "userl"), ("Bill", "BiII"),
    ("\ufb01ne", "fine"),
]  # fmt: skip


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("pair", LOOK_THE_SAME)
def test_a_name_that_looks_like_another_is_taken(
    conninfo: str, pair: tuple[str, str], order: int
) -> None:
    first, second = pair[::order]
    assert make(conninfo, first)
    assert not make(conninfo, second)
    assert transaction(conninfo, lambda c: users.create_or_claim(c, second, b"key")) is None


def test_names_that_look_different_are_both_accepted(conninfo: str) -> None:
    names = [
        "alice",
        "Alice",
        "alicia",
        "al ice",
        "Zoë",
        "Zoe",
        "日本",
        "日木",
        "علی‌رضا",
        "2",
        "22",
    ]
    assert all(make(conninfo, name) for name in names)


def test_an_imported_look_alike_gets_its_key(conninfo: str) -> None:
    """What was there before is left alone, and its owner may claim it."""
    transaction(conninfo, lambda c: users.ensure(c, ["alice", "ali\u200dce"]))
    assert (
        transaction(conninfo, lambda c: users.create_or_claim(c, "ali\u200dce", b"key")) is not None
    )


def test_of_two_similar_names_at_once_one_is_accepted(conninfo: str) -> None:
    async def one(name: str) -> int | None:
        async with connect(conninfo) as connection:
            return await users.create(connection, name, users.digest(name))

    async def inside() -> list[int | None]:
        return await asyncio.gather(one("alice"), one("ali\u200dce"), one("аlice"))

    assert sum(made is not None for made in asyncio.run(inside())) == 1


@pytest.mark.parametrize("name", ["\u200d", "\u2800", "\u3164 \u3164", "pаypal", "ᎪᏢple"])
def test_ambiguous_and_invisible_names_are_refused(name: str) -> None:
    assert refusal(name)


@pytest.mark.parametrize(
    "name",
    ["alice", "José 2", "Ünal-3", "日本taro", "新しいチーム", "佐々木", "Ольга", "علی‌رضا", "हिन्दी"],
)
def test_names_of_any_script_are_not(name: str) -> None:
    assert refusal(name) == ""


def test_session_logs_omit_hidden_users_and_their_hosts(project: ServerProject) -> None:
    shown, hidden = project.host("shown"), project.host("hider")
    project.execute("UPDATE users SET shown = false WHERE name = 'hider'")
    names = transaction(
        project.conninfo, lambda c: sessions.host_names(c, [shown.host_id, hidden.host_id])
    )
    assert names[shown.host_id][1] == "shown"
    assert names[hidden.host_id] == ("(hidden)", "(hidden)")


def test_session_pages_omit_hidden_users_and_their_hosts(project: ServerProject) -> None:
    hosts = [project.host(name, cores=4, trusted=True) for name in ("shown", "hider")]
    for host in hosts:
        host.sync()
    project.execute("UPDATE users SET shown = false WHERE name = 'hider'")
    project.deploy("short_walk", fill_idle=True)
    for host in hosts:
        host.sync()
    project.later(60)
    for host in hosts:
        host.succeed_all(cpu=0)
    project.review()
    found = transaction(project.conninfo, lambda c: session_sums.deployed_hosts(c, 1, limit=10))
    names = {line.host_id: (line.name, line.user) for line in found}
    assert names[hosts[0].host_id][1] == "shown"
    assert names[hosts[1].host_id] == ("(hidden)", "(hidden)")
