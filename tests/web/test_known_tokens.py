"""Tokens are looked up together: after a restart, every host's first request needs it."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from axiom_server.decide.rates import Limits
from axiom_server.store.database import make_pool
from axiom_server.web.known_tokens import KnownTokens
from axiom_server.web.refused import Refused
from tests.support.server_project import ServerProject

HOSTS = 40


def test_many_tokens_are_looked_up_by_few_queries(project: ServerProject) -> None:
    tokens = [project.host(user="ann").token for _ in range(HOSTS)]

    async def scenario() -> int:
        async with make_pool(project.conninfo) as pool:
            known = KnownTokens(pool, Limits())
            await asyncio.gather(*(known.check(token) for token in tokens))
            await asyncio.gather(*(known.check(token) for token in tokens))  # now from the cache
            with pytest.raises(Refused) as refusal:
                await known.check(b"nobody's")
            assert refusal.value.problem.status == 401
            return pool.get_stats()["requests_num"]

    assert asyncio.run(scenario()) <= 3


def test_one_unknown_token_is_refused_alone(project: ServerProject) -> None:
    token = project.host(user="ann").token

    async def scenario() -> list[BaseException | None]:
        async with make_pool(project.conninfo) as pool:
            known = KnownTokens(pool, Limits())
            checks = [known.check(t) for t in (b"nobody's", token, token, b"nobody's")]
            return await asyncio.gather(*checks, return_exceptions=True)

    first, second, third, fourth = asyncio.run(scenario())
    assert isinstance(first, Refused)
    assert isinstance(fourth, Refused)
    assert (second, third) == (None, None)


def test_all_who_wait_hear_that_the_database_is_down(project: ServerProject) -> None:
    token = project.host(user="ann").token

    async def scenario() -> None:
        async with make_pool(project.conninfo) as pool:
            known = KnownTokens(pool, Limits())
            async with await psycopg.AsyncConnection.connect(
                project.conninfo, autocommit=True
            ) as other:
                await other.execute("ALTER TABLE hosts RENAME TO gone")
                found = await asyncio.gather(
                    *(known.check(token) for _ in range(3)), return_exceptions=True
                )
                assert [type(e) for e in found] == [psycopg.errors.UndefinedTable] * 3
                await other.execute("ALTER TABLE gone RENAME TO hosts")
            await known.check(token)  # the next check asks again

    asyncio.run(scenario())
