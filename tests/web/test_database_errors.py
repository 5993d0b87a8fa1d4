"""Clients learn that the database does not answer, but not the database's own message."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import msgspec
import pytest

from axiom_protocol.messages import Problem
from axiom_server.config import Config
from axiom_server.maintenance.rounds import Maintenance
from axiom_server.store.database import make_pool
from axiom_server.sync.batcher import SyncBatcher
from axiom_server.trust.repository import Repository
from axiom_server.web.api import Api, application
from axiom_server.web.metrics import Metrics

SECRETS = ("db-host", "db-user", "db-password", "pool")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/readyz"), ("GET", "/"), ("GET", "/metrics"), ("POST", "/api/v1/sync")],
)
def test_database_error_messages_are_not_sent(
    tmp_path: Path, method: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def inside() -> httpx.Response:
        pool = make_pool("host=db-host user=db-user password=db-password")
        config = Config()
        api = Api(
            config=config, bundles=tmp_path, pool=pool, metrics=Metrics(),
            batcher=SyncBatcher(pool=pool, config=config),
        )  # fmt: skip
        app = application(api, Maintenance(pool=pool, config=config, bundles=Repository(tmp_path)))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, headers={"Authorization": "Bearer token"})

    answer = asyncio.run(inside())
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    problem = msgspec.json.decode(answer.content, type=Problem)
    assert not any(word in problem.title + problem.detail for word in SECRETS)
    assert "the database does not answer" in capsys.readouterr().out  # staff read it in the log
