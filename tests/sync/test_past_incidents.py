"""Incidents of the original project, each with a test of its name: none of them is possible here.

Each test repeats the incident on the real store and, if possible, tries to cause it by force.
"""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from axiom_server.errors import ExperimentUnknown
from axiom_server.publish.deploy import Order, execute_order
from axiom_server.review.review import review
from axiom_server.store.database import Connection, connect
from tests.support.server_project import ServerProject

HOUR = 3600.0


@pytest.mark.parametrize("wrong", ["'infinity'", "NULL", "now() + interval '9 years'"])
def test_48368_workunits_stuck_behind_a_wrong_time_column(
    project: ServerProject, wrong: str
) -> None:
    """Workunits for any host are granted whatever their only time column says. Workunits reserved
    for one host become available to any host after a time that this column cannot extend.
    """
    columns = project.rows(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'queue' "
        "AND data_type LIKE 'timestamp%%'"
    )
    assert columns == [("release_at",)]
    ghost = project.host(cores=4)
    ghost.sync()
    project.deploy("short_walk", fill_idle=True, hosts=[ghost.host_id])
    other = project.host(cores=8)
    assert other.sync().grants == [], "it is the ghost's, for a while"
    project.execute(f"UPDATE queue SET release_at = {wrong}")
    project.later(project.config.deploy.hold_hours * HOUR + 1)
    project.round()
    assert len(other.sync().grants) == 4

    project.deploy("short_walk", count=4)
    project.execute(f"UPDATE queue SET release_at = {wrong}")
    anybody = project.host(cores=4)
    assert len(anybody.sync().grants) == 4


def test_7858_workunits_lost_to_a_race_between_creating_and_staging(project: ServerProject) -> None:
    """A deployment is one transaction: a host that syncs during it sees none of its workunits, and
    all of them afterwards. There is no staging: the bundle was signed before."""
    host = project.host(cores=5)

    async def deploy(connection: Connection, *names: str) -> None:
        await execute_order(
            connection, Order(names=names, count=5), project.config.deploy, project.config.standing
        )

    async def in_the_middle(*names: str) -> None:
        async with connect(project.conninfo) as connection:
            await deploy(connection, "short_walk")
            granted = await asyncio.to_thread(lambda: host.sync().grants)
            assert granted == []
            if len(names) > 1:
                await deploy(connection, *names)  # raises: the first is undone with it

    with pytest.raises(ExperimentUnknown):
        asyncio.run(in_the_middle("short_walk", "no_such_experiment"))
    assert project.value("SELECT count(*) FROM workunits") == 0
    asyncio.run(in_the_middle("short_walk"))
    assert project.value("SELECT count(*) FROM workunits") == 5
    assert len(host.sync().grants) == 5
    assert project.value("SELECT count(*) FROM queue") == 0


def test_hosts_with_16_cores_holding_96_tasks(project: ServerProject) -> None:
    """Whatever free slots a host claims, it never holds more than its cores and its buffer."""
    project.deploy("short_walk", count=200)
    host = project.host(cores=16)
    for _ in range(6):
        host.sync(cpu=16)  # it claims to have all its slots free, again and again
    assert len(host.held) == 16
    host.sync(cpu=1000)
    assert len(host.held) == 16
    # Nor by naming nothing in hand: what it does not name is no longer its.
    host.sync(cpu=96, forget=True)
    leased = "SELECT count(*) FROM tasks WHERE state = 'leased' AND host_id = %s"
    assert project.value(leased, host.host_id) == 16
    # Nor by two deployments to its idle cores, one after the other.
    for _ in range(2):
        project.deploy("short_walk", fill_idle=True)
    host.sync(cpu=16)
    assert project.value(leased, host.host_id) == 16


def test_credit_counted_twice(project: ServerProject) -> None:
    """Reports that are sent twice, two reviews at once, and an entry written by hand."""
    project.deploy("short_walk", count=4)
    host = project.host()
    grants = host.sync().grants
    project.later(60)
    reports = [host.success(grant, 50.0) for grant in grants]
    for _ in range(3):
        host.sync(reports, cpu=0)

    async def review_once() -> int:
        async with connect(project.conninfo) as connection:
            return (await review(connection, project.config)).results

    async def two_at_once() -> list[int]:
        return list(await asyncio.gather(review_once(), review_once()))

    assert sorted(asyncio.run(two_at_once())) == [0, 4]
    host.sync(reports, cpu=0)
    assert project.review().results == 0
    assert project.value("SELECT sum(amount) FROM credit") == 4 * 2
    assert project.value("SELECT sum(credit_total) FROM users") == 4 * 2
    with pytest.raises(psycopg.errors.UniqueViolation):
        project.execute(
            "INSERT INTO credit (task_id, host_id, session_id, experiment_id, elapsed_seconds, "
            "amount) SELECT task_id, host_id, session_id, experiment_id, 1, 5 FROM credit LIMIT 1"
        )


def test_replications_that_all_ran_with_seed_42(project: ServerProject) -> None:
    """Seeds are counted by the database, also for deployments made at the same time; two results
    of one seed are one sample; and a script that runs every seed as 42 confirms nothing."""

    async def deploy() -> None:
        async with connect(project.conninfo) as connection:
            await execute_order(
                connection,
                Order(names=["short_walk"], count=50),
                project.config.deploy,
                project.config.standing,
            )

    async def at_once() -> None:
        await asyncio.gather(*(deploy() for _ in range(5)))

    asyncio.run(at_once())
    seeds = [seed for (seed,) in project.rows("SELECT seed FROM workunits")]
    assert len(seeds) == len(set(seeds)) == 250
    with pytest.raises(psycopg.errors.UniqueViolation):
        project.execute(
            "INSERT INTO workunits (version_id, parameters_id, seed, deployment_id, device) "
            "SELECT version_id, parameters_id, 42, deployment_id, device FROM workunits LIMIT 1"
        )
    host = project.host(cores=12)
    grants = host.sync().grants
    assert len({grant.seed for grant in grants}) == 12
    project.later(60)
    host.sync([host.success(grant, exponent=0.542) for grant in grants], cpu=0)
    finding = project.review().findings[0]
    assert (finding.verdict, finding.seeds) == ("insufficient", 12)
    assert "one sample" in finding.reason
    project.round()
    assert project.value("SELECT kind FROM alarms") == "same_result"


def test_results_of_zero_elapsed_seconds(project: ServerProject) -> None:
    project.deploy("short_walk", count=4)
    host = project.host()
    host.sync()
    project.later(60)
    host.sync([host.success(g, 0.0) for g in host.held.values()], cpu=0)
    log = project.review()
    assert (log.results, log.credit, log.unpaid) == (0, 0, {"no work": 4})


def test_one_broken_script_that_put_every_host_into_back_off(project: ServerProject) -> None:
    """It is the script that is stopped: its queue is withdrawn, what runs is cancelled, staff are
    told why, and its hosts get other work at once."""
    project.publish(name="sound_walk")
    project.deploy("short_walk", count=200)
    fleet = [project.host(cores=4) for _ in range(4)]
    for host in fleet:
        host.sync()
    project.later(60)
    for host in fleet:
        grants = list(host.held.values())
        host.sync([host.failure(g) for g in grants[:3]], cpu=0)
    project.round()
    assert project.value("SELECT state FROM versions ORDER BY version_id LIMIT 1") == "stopped"
    assert project.value("SELECT count(*) FROM queue") == 0
    assert "failed" in project.value("SELECT message FROM alarms")
    assert project.value("SELECT max(failing) FROM hosts") == 0
    running = set(fleet[0].held)
    assert set(fleet[0].sync(cpu=0).cancelled) == running
    project.deploy("sound_walk", count=100)
    assert [len(host.sync(cpu=4).grants) for host in fleet] == [4, 4, 4, 4]


def test_findings_called_confirmed_at_chance_accuracy(project: ServerProject) -> None:
    """A run at chance level fails its own gates (``valid`` 0): it is credited but not counted."""
    project.deploy("short_walk", count=20)
    host = project.host(cores=20)
    host.sync()
    project.later(60)
    at_chance = [host.success(g, valid=0) for g in host.held.values()]
    host.sync(at_chance[:12], cpu=0)
    log = project.review()
    assert log.results == 12, "an invalid run is credited"
    finding = log.findings[0]
    assert (finding.verdict, finding.seeds) == ("insufficient", 0)
    # The few that chance lets through its gates are no evidence either.
    lucky = [host.success(g) for g in host.held.values()]
    host.sync(lucky, cpu=0)
    finding = project.review().findings[0]
    assert (finding.verdict, finding.seeds) == ("preliminary", 8)
