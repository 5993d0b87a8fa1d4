"""What changes hosts and users beside syncs locks them in one order; conflicts are repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
import pytest

from axiom_protocol.messages import HostSettings
from axiom_server.cli.shared import run_transaction
from axiom_server.errors import TransactionConflict
from axiom_server.maintenance import comparison
from axiom_server.project_folder import ProjectFolder
from axiom_server.review.review import review
from axiom_server.store import accounts, machines
from axiom_server.store import hosts as store_hosts
from axiom_server.store.database import Connection, connect
from tests.support.cluster import transaction
from tests.support.server_project import ServerProject

WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted"


async def beside_a_sync(
    project: ServerProject, work: Callable[[Connection], Awaitable[object]]
) -> None:
    """Run the work while a sync has locked its host; the sync then changes more.

    The host has the lowest id. Then the sync locks the other hosts and changes users, as syncs of
    several hosts do. A deadlock would cancel one of the two.
    """
    async with connect(project.conninfo) as sync, connect(project.conninfo) as other:
        await other.set_autocommit(True)
        await sync.execute("SELECT FROM hosts ORDER BY host_id LIMIT 1 FOR NO KEY UPDATE")
        async with asyncio.TaskGroup() as group:
            group.create_task(in_transaction(other, work))
            await until_one_waits(project.conninfo)
            await sync.execute("SELECT FROM hosts ORDER BY host_id FOR NO KEY UPDATE")
            await sync.execute("UPDATE users SET returned = returned + 1")
            await sync.commit()


async def in_transaction(
    connection: Connection, work: Callable[[Connection], Awaitable[object]]
) -> None:
    async with connection.transaction():
        await work(connection)


def check(project: ServerProject, work: Callable[[Connection], Awaitable[object]]) -> None:
    asyncio.run(asyncio.wait_for(beside_a_sync(project, work), 60))


def report_two_results(project: ServerProject) -> None:
    project.deploy("short_walk", count=2)
    host = project.host(user="ann", cores=2)
    host.sync()
    project.later(120)
    host.succeed_all(cpu=0)


def test_a_review_and_a_sync_do_not_wait_for_each_other(project: ServerProject) -> None:
    report_two_results(project)
    check(project, lambda c: review(c, project.config))
    assert project.value("SELECT count(*) FROM credit") == 2


def test_a_review_locks_hosts_and_users_only_at_its_end(project: ServerProject) -> None:
    report_two_results(project)

    async def scenario() -> None:
        async with connect(project.conninfo) as other, connect(project.conninfo) as reviewing:
            await other.execute("LOCK TABLE alarms")  # which the review reads after its results
            task = asyncio.create_task(review(reviewing, project.config))
            await until_one_waits(project.conninfo)
            await other.execute("SELECT FROM hosts FOR NO KEY UPDATE NOWAIT")
            await other.execute("SELECT FROM users FOR NO KEY UPDATE NOWAIT")
            await other.commit()
            assert (await task).results == 2

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize("lies", [False, True], ids=["confirmed", "refuted"])
def test_comparisons_and_a_sync_do_not_wait_for_each_other(
    project: ServerProject, lies: bool
) -> None:
    compared_hosts(project, lies)
    check(project, lambda c: comparison.compare_and_place(c, project.config))
    first, *others = project.rows("SELECT agreements > 0 FROM hosts ORDER BY host_id")
    assert first == (not lies,)
    assert others == [(True,), (True,)]


def compared_hosts(project: ServerProject, lies: bool) -> None:
    """Hosts of three newcomers that have computed one workunit; the first of them may lie."""
    hosts = [project.host(f"newcomer{n}", vouched=False) for n in range(3)]
    for host in hosts:
        host.sync(cpu=0)
    project.deploy("short_walk", count=1)
    for number, host in enumerate(hosts):
        project.round()
        host.sync(cpu=1)
        project.later(60)
        wrong = {"exponent": 0.4} if lies and number == 0 else {}
        host.sync([host.success(g, **wrong) for g in list(host.held.values())], cpu=0)


def test_a_quarantine_and_a_sync_do_not_wait_for_each_other(project: ServerProject) -> None:
    """`quarantine` locks the account, whose hosts a sync holds."""
    compared_hosts(project, lies=True)
    project.round()
    first = project.value("SELECT min(host_id) FROM hosts")
    project.execute(
        "INSERT INTO mismatches (task_id, host_id, note, at) "
        "SELECT task_id, %s, 'claims 9 s where 1 s has passed', now() FROM tasks "
        "WHERE host_id <> %s",
        first, first,
    )  # fmt: skip
    check(project, lambda c: comparison.quarantine_hosts(c, project.config))
    assert project.value("SELECT state FROM hosts WHERE host_id = %s", first) == "quarantined"


@pytest.mark.parametrize("change", ["delete", "switch a mode", "settings of a group"])
def test_changes_of_an_account_and_a_sync_do_not_wait_for_each_other(
    project: ServerProject, change: str
) -> None:
    hosts = [project.host("ann") for _ in range(3)]
    user = project.value("SELECT user_id FROM users WHERE name = 'ann'")
    transaction(
        project.conninfo, lambda c: machines.name_mode(c, user, "night", HostSettings(cpu_cores=1))
    )
    changes: dict[str, Callable[[Connection], Awaitable[object]]] = {
        "delete": lambda c: accounts.delete(c, user),
        "switch a mode": lambda c: machines.switch_mode(c, user, "night"),
        "settings of a group": lambda c: machines.put_in_group(
            c, user, [host.host_id for host in reversed(hosts)], "office"
        ),
    }
    check(project, changes[change])


def test_a_stopped_experiment_and_a_sync_do_not_wait_for_each_other(
    project: ServerProject,
) -> None:
    project.deploy("short_walk", count=3)
    for host in [project.host("ann", cores=1), project.host("ben", cores=1)]:
        host.sync()
        project.later(60)
        host.sync([host.failure(g) for g in host.held.values()], cpu=0)
    project.execute("UPDATE hosts SET failing = 3; UPDATE users SET returned = 3")
    version = project.value("SELECT max(version_id) FROM versions")
    check(project, lambda c: store_hosts.reset_failures(c, version))
    assert project.rows("SELECT failing FROM hosts") == [(0,), (0,)]


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
