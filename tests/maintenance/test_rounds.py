"""The periodic work goes on, whatever a round raises."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from axiom_server.config import Config, ServeConfig
from axiom_server.maintenance.rounds import Maintenance
from axiom_server.store.database import make_pool
from axiom_server.trust.repository import Repository
from tests.support.processes import wait_for
from tests.support.server_project import ServerProject

FAILED = "maintenance round failed"


def test_rounds_go_on_after_one_that_the_database_refuses(
    project: ServerProject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As while staff change the schema by hand: a wrong name is no failure of the connection."""
    project.deploy("short_walk", count=4)
    project.host().sync()
    project.later(7 * 3600)
    project.execute("ALTER TABLE queue RENAME release_at TO released")
    seen: list[str] = []

    def failed() -> bool:
        seen.append(capsys.readouterr().out)
        return FAILED in "".join(seen)

    async def inside() -> None:
        async with make_pool(project.conninfo) as pool:
            made = Maintenance(
                pool=pool, config=Config(serve=ServeConfig(round_seconds=0.1)),
                bundles=Repository(tmp_path),
            )  # fmt: skip
            async with made.running():
                await asyncio.to_thread(wait_for, "the failure", failed)
                project.execute("ALTER TABLE queue RENAME released TO release_at")
                await asyncio.to_thread(wait_for, "a later round", returned)

    def returned() -> bool:
        return bool(project.value("SELECT count(*) FROM queue") == 4)

    asyncio.run(inside())
    assert "UndefinedColumn" in "".join(seen)
