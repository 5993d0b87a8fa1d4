"""What new accounts may hold and judge, on a real PostgreSQL."""

from __future__ import annotations

import psycopg
import pytest

from axiom_protocol.messages import Report
from axiom_server.config import Config
from axiom_server.decide.replicate import (
    BROKEN_SHARE_MIN,
    REFUTING_ACCOUNTS_MIN,
    ReplicationPolicy,
)
from axiom_server.decide.retry import ATTEMPTS_MAX, LOSSES_MAX
from axiom_server.publish.publish import set_state
from axiom_server.store import database, standing
from tests.support.cluster import fresh_database, transaction
from tests.support.server_project import Host, ServerProject


def cancelled(task_id: int) -> Report:
    return Report(task_id=task_id, outcome="cancelled", elapsed_seconds=0, cpu_seconds=0)


def lie(host: Host) -> None:
    """Report all tasks in hand with one false number, which other dishonest hosts report too."""
    host.project.later(60)
    host.sync([host.success(g, exponent=0.9 + g.seed * 1e-4) for g in host.held.values()], cpu=0)


def test_a_newcomer_that_claims_65536_cores_gets_a_newcomers_share(project: ServerProject) -> None:
    project.deploy("short_walk", count=12_000)
    greedy = project.host(cores=65_536, vouched=False)
    for _ in range(3):
        greedy.sync(buffer_seconds=86_400.0)
    assert len(greedy.held) == 8
    assert "confirmed" in greedy.sync(buffer_seconds=86_400.0).no_work_reason
    assert len(project.host(cores=64).sync().grants) == 64


def test_all_hosts_of_a_newcomer_share_one_limit(project: ServerProject) -> None:
    project.deploy("short_walk", count=100)
    hosts = [project.host("many", cores=6, vouched=False) for _ in range(3)]
    assert [len(host.sync().grants) for host in hosts] == [6, 2, 0]


def test_fake_joins_make_few_workunits(project: ServerProject) -> None:
    for _ in range(5):
        project.host(cores=65_536, vouched=False).sync(cpu=65_536)
    assert project.deploy("short_walk", fill_idle=True).workunits <= 40


def test_accounts_that_give_work_back_get_less(project: ServerProject) -> None:
    project.deploy("short_walk", count=100)
    host = project.host(cores=64, vouched=False)
    host.sync()
    host.sync([cancelled(task_id) for task_id in host.held], cpu=64)
    assert len(host.held) <= 1


def test_elapsed_seconds_beyond_a_newcomers_believed_cores_are_not_accepted(
    project: ServerProject,
) -> None:
    project.deploy("short_walk", count=100)
    host = project.host(cores=65_536, vouched=False)
    host.sync(buffer_seconds=86_400.0)
    project.later(105)
    host.sync([host.success(g, 105.0) for g in host.held.values()], cpu=0)
    believed = float(project.value("SELECT sum(elapsed_seconds) FROM tasks"))
    assert believed <= 8 * 105 * 1.02 + 16
    assert project.value("SELECT count(*) FROM mismatches") == 0, "and no lie is proven"


def test_results_count_when_others_confirmed_them(project: ServerProject) -> None:
    validated = "SELECT count(*) FROM results WHERE validated"
    project.deploy("short_walk", count=4)
    first, *others = (project.host(vouched=False) for _ in range(3))
    for host in others:
        host.sync(cpu=0)
    first.sync()
    project.later(60)
    first.succeed_all(cpu=0)
    project.round()
    assert project.value(validated) == 0
    for host in others:
        host.sync()
        project.later(60)
        host.succeed_all(cpu=0)
    project.round()
    assert project.value(validated) == 12
    assert project.rows("SELECT validated, agreeing FROM users") == [(4, 2)] * 3


def test_a_trusted_host_is_the_reference_and_checks_look_like_other_work(
    project: ServerProject,
) -> None:
    project.deploy("short_walk", count=40)
    staff = project.host("staff", trusted=True)
    for _ in range(3):
        staff.sync()
        project.later(60)
        staff.succeed_all(cpu=0)
    assert project.value("SELECT count(*) FROM results WHERE validated") == 12
    assert project.value("SELECT count(*) FROM comparisons") == 0
    liar, honest = project.host("liar", vouched=False), project.host("honest", vouched=False)
    for host in (liar, honest):
        host.sync(cpu=0)
    for _ in range(4):
        project.round()
        for host in (liar, honest):
            host.sync(cpu=1)
        assert all(g.experiment == "short_walk" for g in honest.held.values())
        lie(liar)
        project.later(60)
        honest.succeed_all(cpu=0)
    project.round()
    assert (
        project.value("SELECT count(*) FROM tasks WHERE purpose = 'check'") >= 4
    )  # 3 refute the liar
    assert project.rows("SELECT name FROM users WHERE state = 'quarantined'") == [("liar",)]
    assert project.value("SELECT validated FROM users WHERE name = 'honest'") >= 3
    assert project.value("SELECT confirmed_by_staff FROM users WHERE name = 'honest'")


def test_quarantine_is_of_the_account_and_takes_back_what_accomplices_confirmed(
    postgres: str,
) -> None:
    policy = ReplicationPolicy(mismatches_to_quarantine=3)
    with fresh_database(postgres) as conninfo:
        project = ServerProject(conninfo, Config(replication=policy))
        project.publish()
        project.deploy("short_walk", count=3)
        evil = [project.host(f"evil{n}", cores=3, vouched=False) for n in range(3)]
        spare = project.host("evil0", vouched=False)
        for host in evil:  # alone in the project, they confirm each other
            host.sync(cpu=0)
        evil[0].sync()
        lie(evil[0])
        project.round()
        for host in evil[1:]:
            host.sync()
            lie(host)
        project.round()
        assert project.value("SELECT count(*) FROM results WHERE validated") == 9
        for host in evil:
            transaction(
                conninfo,
                lambda c, host=host: standing_quarantine(c, host.host_id),  # type: ignore[misc]
            )
        assert project.value("SELECT count(*) FROM results") == 0
        assert project.value("SELECT count(*) FROM queue") == 3, "they are computed again"
        state = "SELECT state FROM hosts WHERE host_id = %s"
        assert project.value(state, spare.host_id) == "quarantined"
        assert project.review().results == 0


def test_accounts_that_confirm_each_other_cannot_dilute_what_others_refute(
    project: ServerProject,
) -> None:
    """Fast accomplices make most results, and confirm each other; few honest hosts come later."""
    evil = [project.host(f"evil{n}", cores=150, vouched=True) for n in range(3)]
    project.deploy("short_walk", count=150)
    for host in evil:
        host.sync(cpu=0)
    evil[0].sync()
    for host in evil:
        lie(host)
        project.round()
        for other in evil:
            other.sync()
    for host in evil:
        lie(host)
    project.round()
    confirmed = project.value("SELECT count(*) FROM comparisons WHERE state = 'agreed'")
    assert confirmed == 150
    honest = [project.host(f"good{n}", vouched=True) for n in range(6)]
    state = "SELECT state FROM hosts WHERE host_id = %s"
    for _ in range(40):
        project.deploy("short_walk", count=8)
        for host in (*evil, *honest):
            host.sync()
        for host in evil:
            lie(host)
        for host in honest:
            host.succeed_all()
        project.round()
        if project.value(state, evil[0].host_id) == "quarantined":
            break
    assert project.value(state, evil[0].host_id) == "quarantined"
    own = "FROM mismatches WHERE host_id = %s"
    mismatches = project.value(f"SELECT count(*) {own}", evil[0].host_id)
    assert mismatches < BROKEN_SHARE_MIN * confirmed, "the share alone would not do"
    assert all(project.value(state, host.host_id) == "active" for host in honest)
    check_opponents_over_all_hosts(project, evil[0].host_id)


def check_opponents_over_all_hosts(project: ServerProject, host_id: int) -> None:
    """The same mismatches on two hosts of the account are held against its opponents likewise."""
    spare = project.host("evil0", vouched=True)
    with psycopg.connect(project.conninfo) as connection:
        connection.execute("UPDATE hosts SET state = 'active'")
        connection.execute("UPDATE users SET state = 'active'")
        connection.execute("UPDATE mismatches SET host_id = %s WHERE task_id = ("
                           "SELECT max(task_id) FROM mismatches WHERE host_id = %s)",
                           [spare.host_id, host_id])  # fmt: skip
    [account] = transaction(project.conninfo, lambda c: standing.suspect_accounts(c, 1e6))
    assert account.refuted_by >= REFUTING_ACCOUNTS_MIN
    assert account.refuted_by > account.confirmed_by


async def standing_quarantine(connection: database.Connection, host_id: int) -> None:
    from axiom_server.maintenance.comparison import quarantine

    await quarantine(connection, host_id, "for a test")


@pytest.mark.parametrize("forgets", [True, False])
def test_a_workunit_that_is_always_lost_is_given_up(project: ServerProject, forgets: bool) -> None:
    project.deploy("short_walk", count=1)
    handed_out = 0
    for _ in range(LOSSES_MAX + 3):
        host = project.host()
        for grant in host.sync(cpu=1).grants:
            handed_out += 1
            lost = Report(
                task_id=grant.task_id, outcome="lost", elapsed_seconds=1, cpu_seconds=1
            )  # fmt: skip
            host.sync([] if forgets else [lost], cpu=0, forget=True)
    assert handed_out == (LOSSES_MAX if forgets else ATTEMPTS_MAX)
    assert project.value("SELECT count(*) FROM queue") == 0


def test_two_failing_newcomers_stop_nothing_for_ten_honest_ones(project: ServerProject) -> None:
    project.deploy("short_walk", count=500)
    honest = [project.host(cores=2, vouched=False) for _ in range(10)]
    broken = [project.host(cores=1, vouched=False) for _ in range(2)]
    for _ in range(5):
        for host in broken:
            host.sync([host.failure(g) for g in host.held.values()], cpu=1)
        for host in honest:
            host.sync()
        project.later(60)
        for host in honest[:4]:
            host.succeed_all(cpu=0)
        project.round()
    assert project.value("SELECT state FROM versions") == "active"


def test_a_database_of_0_1_0_keeps_the_standing_of_its_accounts(postgres: str) -> None:
    name = "test_from_010"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    conninfo = psycopg.conninfo.make_conninfo(postgres, dbname=name)
    head, database.HEAD = database.HEAD, "0002"
    try:
        database.migrate(conninfo)
    finally:
        database.HEAD = head
    with psycopg.connect(conninfo) as connection:
        connection.execute(
            """INSERT INTO users (name) VALUES ('ann'), ('ben'), ('new');
               INSERT INTO hosts (user_id, name) SELECT user_id, name FROM users;
               INSERT INTO tasks (workunit_id, experiment_id, version_id, host_id, user_id, state,
                                  granted_at, deadline_at)
               SELECT w, 1, 1, u, u, 'reviewed', now(), now()
               FROM generate_series(1, 12) w, generate_series(1, 2) u;
               INSERT INTO results (task_id, workunit_id, version_id, valid, digest, result)
               SELECT task_id, workunit_id, 1, 1, '', '{}' FROM tasks;
               INSERT INTO comparisons (workunit_id, task_id, state)
               SELECT w, w, CASE WHEN w > 10 THEN 'wanted' ELSE 'agreed' END
               FROM generate_series(1, 12) w"""
        )
    database.migrate(conninfo)
    with psycopg.connect(conninfo) as connection:
        found = connection.execute("SELECT name, validated, agreeing FROM users ORDER BY name")
        assert found.fetchall() == [("ann", 10, 1), ("ben", 10, 1), ("new", 0, 0)]
        counted = connection.execute("SELECT count(*) FROM results WHERE validated").fetchone()
        assert counted == (20,)
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_only_a_host_that_has_joined_can_be_trusted(project: ServerProject) -> None:
    assert not transaction(project.conninfo, lambda c: standing.set_trusted(c, 99, True))
    host = project.host()
    assert transaction(project.conninfo, lambda c: standing.set_trusted(c, host.host_id, True))


def test_mismatches_of_many_hosts_quarantine_their_account(project: ServerProject) -> None:
    staff = project.host("staff", trusted=True, cores=20)
    staff.sync(cpu=0)
    project.deploy("short_walk", count=40)
    for number in range(3):  # each host sends two false results and then leaves
        host = project.host("spread", cores=2, vouched=False)
        host.sync()
        lie(host)
        project.round()
        staff.sync(cpu=2)
        project.later(60)
        staff.succeed_all(cpu=0)
        project.round()
        if number == 0:
            project.execute("UPDATE hosts SET user_id = NULL, state = 'merged' WHERE host_id = %s",
                            host.host_id)  # fmt: skip
    assert project.value("SELECT max(n) FROM (SELECT count(*) AS n FROM mismatches"
                         " GROUP BY host_id) m") < 3  # fmt: skip
    assert project.value("SELECT state FROM users WHERE name = 'spread'") == "quarantined"
    assert project.value("SELECT state FROM users WHERE name = 'staff'") == "active"


def test_one_broken_host_of_many_does_not_quarantine_their_account(project: ServerProject) -> None:
    staff = project.host("staff", trusted=True, cores=40)
    staff.sync(cpu=0)
    project.deploy("short_walk", count=32)
    hosts = [project.host("lab", cores=2) for _ in range(16)]
    for host in hosts:
        host.sync()
    broken, last = hosts[0], hosts[1]
    lie(broken)
    project.later(60)
    odd, *good = last.held.values()
    last.sync([last.success(odd, exponent=0.9), *map(last.success, good)], cpu=0)
    for host in hosts[2:]:
        host.succeed_all(cpu=0)
    project.round()
    staff.sync(cpu=40)
    project.later(60)
    staff.succeed_all(cpu=0)
    project.round()
    assert project.value("SELECT count(*) FROM mismatches") == 3
    assert project.value("SELECT count(*) FROM users WHERE state <> 'active'") == 0


@pytest.mark.parametrize("fails", [True, False])
def test_a_newcomer_cannot_use_up_the_attempts_of_all_work(
    project: ServerProject, fails: bool
) -> None:
    project.deploy("short_walk", count=200)
    project.host(cores=1)
    evil = project.host("evil", cores=4, vouched=False)
    taken = 0
    for _ in range(60):
        taken += len(evil.sync([evil.failure(g) for g in evil.held.values()] if fails else [],
                               cpu=4, forget=not fails).grants)  # fmt: skip
    assert taken <= 12
    project.later(3700)
    assert len(evil.sync(cpu=4, forget=True).grants) == 1, "it may try again after a while"
    project.later(30)
    evil.succeed_all(cpu=0)
    assert project.value("SELECT returned FROM users WHERE name = 'evil'") > 0


def test_a_host_that_was_slow_once_holds_no_task_for_months(project: ServerProject) -> None:
    project.deploy("short_walk", count=20)
    host = project.host("slow", cores=2)
    host.sync(cpu=1)
    project.later(5 * 3600)
    host.succeed_all(5 * 3600.0, cpu=1)
    assert project.value("SELECT pace FROM hosts WHERE host_id = %s", host.host_id) == 50
    project.execute("UPDATE parameter_sets SET budget_seconds = 14400")
    host.sync([host.success(g) for g in host.held.values()], cpu=2)
    longest = "SELECT max(deadline_at - granted_at) <= interval '7 days' FROM tasks"
    assert project.value(longest + " WHERE state = 'leased'")


@pytest.mark.parametrize(
    ("state", "held_against"), [("active", True), ("stopped", False), ("retired", False)]
)
def test_failures_in_a_version_that_staff_took_back_are_not_held_against_a_host(
    project: ServerProject, state: str, held_against: bool
) -> None:
    """An agent that verifies a withdrawn version again must refuse the tasks that wait for it."""
    manifest = project.publish("short_walk")
    project.deploy("short_walk", count=20)
    host = project.host("newcomer", cores=4, vouched=False)
    assert len(host.sync(cpu=4).grants) > 1
    transaction(project.conninfo, lambda c: set_state(c, manifest.ref, state, "by staff"))
    project.later(60)
    host.sync([host.failure(g) for g in list(host.held.values())], cpu=0)
    counted = "SELECT h.failing > 0, u.returned > 0 FROM hosts h JOIN users u USING (user_id)"
    assert project.rows(counted) == [(held_against, held_against)]


def test_tasks_that_the_server_takes_back_are_not_held_against_an_account(
    project: ServerProject,
) -> None:
    manifest = project.publish("short_walk")
    project.deploy("short_walk", count=20)
    host = project.host("newcomer", cores=4, vouched=False)
    held = len(host.sync(cpu=4).grants)
    transaction(project.conninfo, lambda c: set_state(c, manifest.ref, "stopped", "by staff"))
    project.later(60)
    assert len(host.sync(cpu=0).cancelled) == held
    assert project.value("SELECT sum(returned) FROM users") == 0
