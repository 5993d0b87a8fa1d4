"""A review beside syncs locks hosts and users in their order, and is repeated after conflicts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
import pytest

from axiom_server.cli.shared import run_transaction
from axiom_server.errors import TransactionConflict
from axiom_server.project_folder import ProjectFolder
from axiom_server.review.review import review
from axiom_server.store.database import Connection, connect
from tests.support.server_project import ServerProject

WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def test_a_review_and_a_sync_of_one_host_do_not_wait_for_each_other(
    project: ServerProject,
) -> None:
    """The sync has locked the host and then changes its user, as `update_returned` does."""
    project.deploy("short_walk", count=2)
    host = project.host(user="ann", cores=2)
    host.sync()
    project.later(120)
    host.succeed_all(cpu=0)

    async def scenario() -> None:
        async with connect(project.conninfo) as sync, connect(project.conninfo) as reviewing:
            await sync.execute("SELECT FROM hosts ORDER BY host_id FOR NO KEY UPDATE")
            task = asyncio.create_task(review(reviewing, project.config))
            await until_one_waits(project.conninfo)
            await sync.execute("UPDATE users SET returned = returned + 1")
            await sync.commit()
            assert (await task).results == 2

    asyncio.run(asyncio.wait_for(scenario(), 60))


async def until_one_waits(conninfo: str) -> None:
    async with connect(conninfo) as observer:
        await observer.set_autocommit(True)
        while True:
            cursor = await observer.execute(WAITS)
            found = await cursor.fetchone()
            if found is not None and found[0]:
                return
            await asyncio.sleep(0.01)


class Folder:
    """A project folder whose database runs already."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo

    @contextmanager
    def database(self) -> Iterator[str]:
        yield self._conninfo


def conflict_at_first(conflicts: int) -> Any:
    """Work that adds a user, and loses a conflict so many times."""
    left = conflicts

    async def work(connection: Connection) -> str:
        nonlocal left
        await connection.execute("INSERT INTO users (name) VALUES ('added once')")
        if left:
            left -= 1
            raise psycopg.errors.DeadlockDetected("deadlock detected")
        return "done"

    return work


def test_a_transaction_is_repeated_after_a_conflict(project: ServerProject) -> None:
    folder = cast(ProjectFolder, Folder(project.conninfo))
    assert run_transaction(folder, conflict_at_first(2), attempts=3) == "done"
    assert project.value("SELECT count(*) FROM users WHERE name = 'added once'") == 1


def test_a_conflict_that_lasts_is_reported_as_one(project: ServerProject) -> None:
    folder = cast(ProjectFolder, Folder(project.conninfo))
    with pytest.raises(TransactionConflict, match="nothing was changed: run the command again"):
        run_transaction(folder, conflict_at_first(3), attempts=3)
    assert project.value("SELECT count(*) FROM users WHERE name = 'added once'") == 0
