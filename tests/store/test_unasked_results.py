"""Late results, and results of tasks that only their host has a record of, are compared too."""

from __future__ import annotations

import msgspec
import psycopg
import pytest

from axiom_protocol.messages import Grant, Report, Work
from axiom_server.review.judging import judge_all
from axiom_server.store import epochs
from tests.support.cluster import transaction
from tests.support.server_project import Host, ServerProject

VALIDATED = "SELECT count(*) FROM results WHERE validated"


def lose(host: Host) -> list[Grant]:
    """Have the tasks in hand counted as lost; returns their grants."""
    kept = list(host.held.values())
    host.sync(forget=True, cpu=0)
    return kept


def report(host: Host, grants: list[Grant], **result: float) -> None:
    host.project.later(60)
    host.sync([host.success(g, **result) for g in grants], cpu=0)


def test_a_late_result_is_compared_with_its_replacement(
    project: ServerProject,
) -> None:
    liar, staff = project.host("liar", vouched=False), project.host("staff", trusted=True)
    project.deploy("short_walk", count=2)
    kept = lose_after_grant(liar)
    staff.sync()
    project.later(60)
    staff.succeed_all(cpu=0)
    assert project.value(VALIDATED) == 2
    report(liar, kept, exponent=0.9)
    project.round()
    assert project.value("SELECT count(*) FROM mismatches WHERE host_id = %s", liar.host_id) == 2
    project.review()
    earned = "SELECT count(*) FROM credit WHERE host_id = %s"
    assert project.value(earned, liar.host_id) == 0
    assert project.value(earned, staff.host_id) == 2


def lose_after_grant(host: Host) -> list[Grant]:
    host.sync(cpu=2)
    return lose(host)


def test_a_late_replica_is_compared_with_the_settled_results(
    project: ServerProject,
) -> None:
    first, late, other = (project.host(name) for name in ("first", "late", "other"))
    for host in (late, other):
        host.sync(cpu=0)
    project.deploy("short_walk", count=2)
    first.sync()
    report(first, list(first.held.values()))
    project.round()
    kept = {h.host_id: list(h.sync(cpu=4).grants) for h in (late, other)}
    assert all(kept.values()), "each of the other accounts got the replicas"
    lose(late)
    report(other, kept[other.host_id])
    project.round()
    third = project.host("third")
    third.sync(cpu=0)
    project.round()
    report(third, list(third.sync(cpu=4).grants))
    project.round()
    assert project.value("SELECT count(*) FROM comparisons WHERE state <> 'agreed'") == 0
    report(late, kept[late.host_id], exponent=0.9)
    assert project.value("SELECT count(*) FROM comparisons WHERE state = 'wanted'") == 2
    project.round()
    project.review()
    assert project.value("SELECT count(*) FROM credit WHERE host_id = %s", late.host_id) == 0


@pytest.fixture
def restored(project: ServerProject) -> ServerProject:
    """A project with four results of a host of staff's, restored from a backup after them."""
    project.deploy("short_walk", count=4)
    staff = project.host("staff", trusted=True)
    staff.sync()
    report(staff, list(staff.held.values()))
    with psycopg.connect(project.conninfo) as connection:
        connection.execute("ALTER TABLE tasks ALTER COLUMN task_id RESTART WITH 100")
    transaction(project.conninfo, epochs.begin)
    return project


def claim(host: Host, grant: Grant, number: int, exponent: float) -> Report:
    """A result that the host claims was granted before the restore."""
    work = Work(
        experiment=grant.experiment, version=grant.version, parameters=grant.parameters,
        seed=grant.seed, budget_seconds=grant.budget_seconds,
    )  # fmt: skip
    success = host.success(grant, exponent=exponent)
    return msgspec.structs.replace(success, task_id=number, work=work)


def test_a_result_of_the_previous_epoch_is_compared(
    restored: ServerProject,
) -> None:
    project = restored
    host = project.host("liar", vouched=False)
    seeds = [seed for (seed,) in project.rows("SELECT seed FROM workunits ORDER BY seed")]
    grants = [_grant(project, seed) for seed in seeds]
    host.sync([claim(host, g, 50 + g.seed, 0.9) for g in grants], cpu=0, epoch="before")
    project.round()
    project.review()
    assert project.value("SELECT count(*) FROM credit WHERE host_id = %s", host.host_id) == 0
    assert project.value("SELECT count(*) FROM mismatches") == 4


def test_results_without_a_grant_do_not_vote(restored: ServerProject) -> None:
    project = restored
    project.execute("UPDATE hosts SET trusted = false")
    project.execute("DELETE FROM results")
    honest = project.host("honest", vouched=False)
    project.execute("INSERT INTO queue (workunit_id, version_id, device)"
                    " SELECT workunit_id, version_id, device FROM workunits")  # fmt: skip
    crowd = [project.host(f"evil{n}", vouched=False) for n in range(5)]
    honest.sync()
    grants = list(honest.held.values())
    report(honest, grants)
    for host in crowd:
        host.sync([claim(host, g, 50 + g.seed, 0.9) for g in grants], cpu=0, epoch="before")
    project.round()
    assert project.value("SELECT count(*) FROM mismatches WHERE host_id = %s",
                         honest.host_id) == 0  # fmt: skip
    assert project.value(VALIDATED) == 0


def _grant(project: ServerProject, seed: int) -> Grant:
    budget = project.value("SELECT budget_seconds FROM parameter_sets")
    return Grant(
        task_id=0, experiment="short_walk", version=project.value("SELECT version FROM versions"),
        sha256="0" * 64, parameters={}, seed=seed, budget_seconds=budget, lease_seconds=1.0,
    )  # fmt: skip


def test_a_newcomer_alone_cannot_trigger_the_ignored_seed_check(
    project: ServerProject,
) -> None:
    liar, honest = project.host("liar", cores=40), project.host("honest", trusted=True, cores=40)
    project.deploy("short_walk", count=8)
    liar.sync()
    report(liar, list(liar.held.values()), exponent=0.5)
    project.deploy("short_walk", count=20)
    honest.sync()
    report(honest, list(honest.held.values()))
    finding = transaction(project.conninfo, judge_all)[0]
    assert "one sample" not in finding.reason
    assert finding.seeds == 20
