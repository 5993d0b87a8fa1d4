"""A client of the real web application and a database, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from axiom_server.config import Config
from axiom_server.maintenance.rounds import Maintenance
from axiom_server.store.database import make_pool
from axiom_server.sync.batcher import SyncBatcher
from axiom_server.trust.repository import Repository
from axiom_server.web.api import Api, application
from axiom_server.web.bodies import BodyBudget
from axiom_server.web.metrics import Metrics

Work = Callable[[httpx.AsyncClient], Awaitable[None]]


def with_client(conninfo: str, folder: Path, work: Work, budget: BodyBudget | None = None) -> None:
    """Run ``work`` with a client. ``folder`` holds the bundles, if there are any."""
    asyncio.run(_with_client(conninfo, folder, work, budget or BodyBudget()))


async def _with_client(conninfo: str, folder: Path, work: Work, budget: BodyBudget) -> None:
    config, pool = Config(), make_pool(conninfo)
    batcher = SyncBatcher(pool=pool, config=config)
    api = Api(
        config=config, bundles=folder, pool=pool, batcher=batcher, metrics=Metrics(),
        budget=budget, strangers=budget,
    )  # fmt: skip
    app = application(api, Maintenance(pool=pool, config=config, bundles=Repository(folder)))
    await pool.open()
    transport = httpx.ASGITransport(app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            await work(client)
    finally:
        await pool.close()
