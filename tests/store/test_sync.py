"""The sync transaction on a real PostgreSQL: granted once, reported once, credited once."""

from __future__ import annotations

import msgspec
import psycopg
import pytest

from axiom_protocol.messages import Report
from axiom_server.config import Config
from axiom_server.decide.lease import LeasePolicy
from axiom_server.decide.replicate import ReplicationPolicy
from axiom_server.store.leases import POOL_WORKUNITS
from axiom_server.sync.reports import ENDED_BEFORE, GIVEN_BACK
from tests.support.cluster import fresh_database
from tests.support.server_project import ServerProject


def test_a_host_is_filled_in_one_exchange(project: ServerProject) -> None:
    project.deploy("short_walk", count=300)
    host = project.host(cores=240)
    answer = host.sync()
    assert len(answer.grants) == 240
    assert len({grant.seed for grant in answer.grants}) == 240
    assert host.sync().grants == []


@pytest.mark.parametrize("cores", [1, 2])
def test_the_only_pool_with_work_is_found_among_many(project: ServerProject, cores: int) -> None:
    """Fewest grants first: the pools of experiments that have no work are asked before it."""
    for number in range(12):
        project.publish("short_walk", name=f"walk_{number}")
    project.deploy("walk_11", count=20)
    busy = project.host(cores=16)
    assert len(busy.sync().grants) == 16
    assert len(project.host(cores=cores).sync().grants) == cores


@pytest.mark.parametrize("cores", [1, 3])
def test_work_behind_what_the_host_has_lost_is_found(project: ServerProject, cores: int) -> None:
    """Another host may have the lost workunits, so they stay in the queue, before newer ones."""
    project.host().sync(cpu=0)
    project.deploy("short_walk", count=30)
    host = project.host(cores=30)
    lost = {grant.seed for grant in host.sync().grants}
    assert len(lost) == 30
    host.sync(forget=True, cpu=0)
    project.deploy("short_walk", count=10)
    granted = host.sync(cpu=cores).grants
    assert len(granted) == cores
    assert not lost & {grant.seed for grant in granted}


def test_a_lost_answer_costs_nothing(project: ServerProject) -> None:
    project.deploy("short_walk", count=10)
    host = project.host()
    first = host.sync(request_id="the-same-one")
    host.held = {}
    again = host.sync(request_id="the-same-one")
    assert [g.task_id for g in again.grants] == [g.task_id for g in first.grants]
    assert project.value("SELECT count(*) FROM queue") == 6

    project.later(60)
    reports = [host.success(g) for g in again.grants]
    host.sync(reports, request_id="and-a-report")
    host.held = {g.task_id: g for g in again.grants}
    answer = host.sync(reports, request_id="and-a-report")
    assert [a.refusal for a in answer.acknowledged] == [""] * 4
    assert project.value("SELECT count(*) FROM results") == 4
    assert len(answer.grants) == 4


def test_a_result_of_a_task_that_was_given_back_is_refused_with_the_reason(
    project: ServerProject,
) -> None:
    """As by an agent that lost the end of its journal, and computes the task again."""
    project.deploy("short_walk", count=1)
    host = project.host()
    (grant,) = host.sync().grants
    given_back = Report(
        task_id=grant.task_id, outcome="cancelled", elapsed_seconds=0.0, cpu_seconds=0.0
    )
    assert host.sync([given_back], cpu=0).acknowledged[0].refusal == ""
    assert host.sync([given_back], cpu=0).acknowledged[0].refusal == ""
    project.later(60)
    answer = host.sync([host.success(grant)], cpu=0)
    assert answer.acknowledged[0].refusal == GIVEN_BACK
    assert project.value("SELECT count(*) FROM results") == 0


def test_a_result_of_a_task_that_failed_before_is_refused_with_the_reason(
    project: ServerProject,
) -> None:
    project.deploy("short_walk", count=1)
    host = project.host()
    (grant,) = host.sync().grants
    project.later(60)
    host.sync([host.failure(grant)], cpu=0)
    answer = host.sync([host.success(grant)], cpu=0)
    assert answer.acknowledged[0].refusal == ENDED_BEFORE.format("failed")
    assert host.sync([host.failure(grant)], cpu=0).acknowledged[0].refusal == ""
    assert project.value("SELECT count(*) FROM results") == 0


@pytest.mark.parametrize("reviewed", [False, True])
def test_a_result_of_a_task_that_the_host_reported_as_lost_is_credited(
    project: ServerProject, reviewed: bool
) -> None:
    """A power cut took the agent back to a time before that report; it computed the task."""
    project.deploy("short_walk", count=1)
    host = project.host()
    (grant,) = host.sync().grants
    project.later(60)
    lost = msgspec.structs.replace(host.failure(grant), outcome="lost")
    host.sync([lost], cpu=0)
    assert project.value("SELECT count(*) FROM queue") == 1
    if reviewed:
        project.review()
    for _ in range(2):
        answer = host.sync([host.success(grant)], cpu=0)
        assert [a.refusal for a in answer.acknowledged] == [""]
    host.sync([lost], cpu=0)
    assert project.value("SELECT count(*) FROM queue") == 0
    project.review()
    assert project.value("SELECT count(*) FROM credit") == 1
    assert project.value("SELECT count(*) FROM results") == 1
    assert project.value("SELECT pending FROM hosts") == 0


def test_a_request_that_was_overtaken_takes_nothing_back(project: ServerProject) -> None:
    """As when a server that was stopped processes a request after newer ones."""
    project.deploy("short_walk", count=10)
    host = project.host(cores=4)
    host.sync(request_id="run-000001")
    project.later(60)
    done = [host.success(grant) for grant in host.held.values()]
    host.sync(done, request_id="run-000002")
    held = dict(host.held)
    assert len(held) == 4
    late = host.sync(request_id="run-000001", forget=True)
    assert (late.grants, late.cancelled) == ([], [])
    host.held = held
    assert host.sync(request_id="run-000003").cancelled == []
    assert project.value("SELECT count(*) FROM tasks WHERE state = 'lost'") == 0
    assert project.value("SELECT count(*) FROM tasks WHERE state = 'leased'") == 4


def test_work_of_a_version_leaves_the_queue_when_the_next_takes_its_place(
    project: ServerProject,
) -> None:
    project.deploy("short_walk", count=10)
    host = project.host(cores=4)
    host.sync()
    project.publish(version="1.0.1")
    assert project.value("SELECT count(*) FROM queue") == 0
    project.later(60)
    assert [a.refusal for a in host.succeed_all().acknowledged] == [""] * 4  # what runs may finish


def test_reports_sent_again_later_are_acknowledged_and_count_once(project: ServerProject) -> None:
    project.deploy("short_walk", count=4)
    host = project.host()
    grants = host.sync().grants
    project.later(60)
    reports = [host.success(grant) for grant in grants]
    host.sync(reports)
    project.review()
    answer = host.sync(reports)
    assert len(answer.acknowledged) == 4
    assert project.review().results == 0
    assert project.value("SELECT sum(amount) FROM credit") == 8


def test_tasks_that_a_host_lost_are_queued_again_at_once(project: ServerProject) -> None:
    project.deploy("short_walk", count=4)
    host = project.host()
    seeds = {grant.seed for grant in host.sync().grants}
    answer = host.sync(forget=True)
    assert {grant.seed for grant in answer.grants} == seeds
    assert project.value("SELECT count(*) FROM tasks WHERE state = 'lost'") == 4


def test_an_expired_lease_returns_and_a_late_report_still_counts(project: ServerProject) -> None:
    project.deploy("short_walk", count=4)
    slow, other = project.host(), project.host()
    held = slow.sync().grants
    project.later(7 * 3600)
    project.round()
    assert project.value("SELECT count(*) FROM queue") == 4
    slow.sync([slow.success(held[0], 3600)], cpu=0)
    assert project.value("SELECT count(*) FROM queue") == 3
    assert {g.seed for g in other.sync().grants} == {g.seed for g in held[1:]}
    assert project.value("SELECT count(*) FROM results") == 1


def test_tasks_that_a_host_runs_without_a_lease_are_cancelled(project: ServerProject) -> None:
    project.deploy("short_walk", count=4)
    host = project.host()
    held = host.sync().grants
    project.later(7 * 3600)
    project.round()
    answer = host.sync(cpu=0)
    assert answer.cancelled == sorted(g.task_id for g in held)


def test_a_host_gets_the_buffer_that_it_asks_for_and_no_more(project: ServerProject) -> None:
    project.deploy("short_walk", count=200)
    host = project.host(cores=4)
    host.sync(buffer_seconds=10.0)  # at 1 s a task: 40 beyond what runs
    assert len(host.held) == 44
    assert host.sync(buffer_seconds=10.0, cpu=4).grants == []


def test_limits_of_a_host(postgres: str) -> None:
    with fresh_database(postgres) as conninfo:
        project = ServerProject(conninfo, Config(lease=LeasePolicy(tasks_per_host=3)))
        project.publish()
        project.deploy("short_walk", count=20)
        host = project.host(cores=16)
        host.sync()
        assert len(host.held) == 3


def test_limits_of_a_user(postgres: str) -> None:
    with fresh_database(postgres) as conninfo:
        project = ServerProject(conninfo, Config(lease=LeasePolicy(tasks_per_user=5)))
        project.publish()
        project.deploy("short_walk", count=20)
        one, two = project.host("ann"), project.host("ann")
        one.sync()
        two.sync()
        assert (len(one.held), len(two.held)) == (4, 1)


def test_a_host_that_fails_gets_one_task_at_a_time(project: ServerProject) -> None:
    project.deploy("short_walk", count=100)
    host = project.host(cores=16)
    host.sync()
    project.later(60)
    answer = host.sync([host.failure(g) for g in host.held.values()], cpu=16)
    assert len(answer.grants) == 1
    assert "one at a time" in answer.no_work_reason or answer.grants
    assert host.sync(cpu=15).grants == []
    project.later(60)
    assert len(host.succeed_all(cpu=16).grants) == 16


def test_a_failed_workunit_is_tried_elsewhere_and_given_up_in_the_end(
    project: ServerProject,
) -> None:
    project.deploy("short_walk", count=1)
    for _ in range(6):
        host = project.host()
        grant = host.sync().grants[0]
        project.later(60)
        host.sync([host.failure(grant)], cpu=0)
    assert project.value("SELECT count(*) FROM queue") == 0
    assert project.value("SELECT max(attempt) FROM tasks") == 6


def test_a_result_outside_its_schema_is_refused_with_a_reason(project: ServerProject) -> None:
    project.deploy("short_walk", count=4)
    host = project.host()
    grants = host.sync().grants
    project.later(60)
    bad = [
        host.success(grants[0], exponent=7.0),
        host.success(grants[1], exponent="0.5"),
        host.success(grants[2], extra=1.0),
        Report(task_id=grants[3].task_id, outcome="success", elapsed_seconds=1, cpu_seconds=1),
    ]
    refusals = [a.refusal for a in host.sync(bad, cpu=0).acknowledged]
    assert "above its bound" in refusals[0]
    assert "must be a number" in refusals[1]
    assert "not declared" in refusals[2]
    assert "must be a table" in refusals[3]
    log = project.review()
    assert (log.results, log.credit, log.unpaid) == (0, 0, {"refused": 4})


def test_tasks_of_others_and_of_nobody_are_refused(project: ServerProject) -> None:
    project.deploy("short_walk", count=8)
    one, other = project.host(), project.host()
    theirs = other.sync().grants[0]
    for task_id in (theirs.task_id, 999_999, 0, 2**63, -1):
        report = Report(task_id=task_id, outcome="success", elapsed_seconds=1, cpu_seconds=1)
        answer = one.sync([report], cpu=0)
        assert "never granted" in answer.acknowledged[0].refusal
    assert project.value("SELECT state FROM tasks WHERE task_id = %s", theirs.task_id) == "leased"


def test_text_that_postgres_cannot_store_is_cleaned(project: ServerProject) -> None:
    project.deploy("short_walk", count=1)
    host = project.host()
    grant = host.sync().grants[0]
    report = Report(
        task_id=grant.task_id, outcome="failed", elapsed_seconds=0, cpu_seconds=0,
        message="a\0b<script>",
    )  # fmt: skip
    host.sync([report], cpu=0)
    assert project.value("SELECT message FROM tasks") == "ab<script>"


def test_claimed_elapsed_is_capped_by_the_servers_clock(project: ServerProject) -> None:
    project.deploy("short_walk", count=4)
    host = project.host()
    grants = host.sync().grants
    project.later(50)
    host.sync([host.success(grants[0], 20_000)], cpu=0)
    believed = project.value("SELECT elapsed_seconds FROM tasks WHERE outcome = 'success'")
    assert 50 <= believed < 60


def test_a_buffer_granted_early_is_no_licence(project: ServerProject) -> None:
    """Each of forty tasks waited 1,000 s; four cores cannot have worked 40,000 s in that time."""
    project.deploy("short_walk", count=200)
    host = project.host(cores=4)
    host.sync(buffer_seconds=9.0)
    assert len(host.held) == 40
    project.later(1_000)
    host.sync([host.success(g, 1_000) for g in host.held.values()], cpu=0)
    believed = float(project.value("SELECT sum(elapsed_seconds) FROM tasks"))
    assert 4_000 <= believed < 4_200


def test_the_ledger_cannot_be_changed(project: ServerProject) -> None:
    project.deploy("short_walk", count=1)
    host = project.host()
    host.sync()
    project.later(60)
    host.succeed_all(cpu=0)
    project.review()
    for statement in (
        "UPDATE credit SET amount = 1000", "DELETE FROM credit", "TRUNCATE credit",
    ):  # fmt: skip
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            project.execute(statement)
    with pytest.raises(psycopg.errors.UniqueViolation):
        project.execute(
            "INSERT INTO credit (task_id, host_id, session_id, experiment_id, elapsed_seconds, "
            "amount) SELECT task_id, host_id, session_id, experiment_id, 1, 5 FROM credit"
        )


def test_totals_are_the_ledgers_sums(postgres: str) -> None:
    with fresh_database(postgres) as conninfo:
        project = ServerProject(conninfo, Config(replication=ReplicationPolicy(one_in=10**9)))
        project.publish()
        project.deploy("short_walk", count=40)
        fleet = [project.host(user=name) for name in ("ann", "ann", "ben")]
        for host in fleet:
            host.sync()
        project.execute("UPDATE hosts SET agreements = 10^8")  # trusted: hardly ever checked
        for seconds in (20, 150):
            project.later(seconds + 10)
            for host in fleet:
                host.succeed_all(seconds)
            project.review()
        for table, key in (("users", "user_id"), ("hosts", "host_id")):
            wrong = project.rows(
                f"SELECT {key} FROM {table} t WHERE credit_total <> "
                f"(SELECT COALESCE(sum(amount), 0) FROM credit c WHERE c.{key} = t.{key})"
            )
            assert wrong == []
        assert project.value("SELECT sum(amount) FROM credit") == 12 * 2 + 12 * 5


def test_a_script_that_ignores_its_seed_raises_an_alarm_on_the_experiment(
    project: ServerProject,
) -> None:
    project.deploy("short_walk", count=8)
    for host in (project.host(), project.host()):
        host.sync()
        project.later(60)
        host.sync([host.success(g, exponent=0.5) for g in host.held.values()], cpu=0)
    project.round()
    assert project.value("SELECT kind FROM alarms") == "same_result"
    assert project.value("SELECT state FROM versions") == "stopped"


def test_two_seeds_with_one_result_among_many_raise_no_alarm(project: ServerProject) -> None:
    """A result of few bits, such as a share of 200 samples, is the same for some pair of seeds."""
    project.deploy("short_walk", count=8)
    for host in (project.host(), project.host()):
        coincidence, *others = host.sync().grants
        project.later(60)
        reports = [host.success(coincidence, exponent=0.6), *map(host.success, others)]
        host.sync(reports, cpu=0)
    project.round()
    assert project.value("SELECT count(DISTINCT digest) FROM results") == 7
    assert project.value("SELECT count(*) FROM alarms") == 0
    assert project.value("SELECT state FROM versions") == "active"


def test_a_host_that_invents_one_number_is_quarantined(project: ServerProject) -> None:
    project.deploy("short_walk", count=12)
    liar, honest = project.host(), project.host()
    liar.sync()
    honest.sync()
    project.later(60)
    liar.sync([liar.success(g, exponent=0.4321) for g in liar.held.values()], cpu=0)
    honest.succeed_all(cpu=0)
    project.round()
    assert project.value("SELECT state FROM versions") == "active"
    assert project.rows("SELECT host_id FROM hosts WHERE state = 'quarantined'") == [
        (liar.host_id,)
    ]
    assert "quarantined" in liar.sync().no_work_reason


def test_a_new_hosts_result_is_checked_on_another_users_host(project: ServerProject) -> None:
    project.deploy("short_walk", count=1)
    first, same_user, other = project.host("ann"), project.host("ann"), project.host("ben")
    same_user.sync(cpu=0)
    other.sync(cpu=0)
    grant = first.sync().grants[0]
    project.later(60)
    first.succeed_all(cpu=0)
    assert project.review().results == 0, "it waits for the other opinion"
    project.round()
    assert same_user.sync().grants == []
    replica = other.sync().grants[0]
    assert (replica.seed, replica.sha256) == (grant.seed, grant.sha256)
    project.later(60)
    other.succeed_all(cpu=0)
    project.round()
    assert project.value("SELECT state FROM comparisons") == "agreed"
    assert project.rows("SELECT agreements FROM hosts WHERE agreements > 0") == [(1,), (1,)]
    assert project.review().results == 2


def test_the_outlier_of_three_is_refused_and_three_mismatches_quarantine(postgres: str) -> None:
    policy = ReplicationPolicy(mismatches_to_quarantine=3)
    with fresh_database(postgres) as conninfo:
        project = ServerProject(conninfo, Config(replication=policy))
        project.publish()
        liar, ann, ben = project.host("liar"), project.host("ann"), project.host("ben")
        for host in (ann, ben):
            host.sync(cpu=0)
        project.deploy("short_walk", count=3)
        liar.sync()
        project.later(60)
        liar.sync(
            [liar.success(g, exponent=0.6 + g.seed * 1e-3) for g in liar.held.values()], cpu=0
        )
        for _ in range(3):  # second opinion, tiebreak, verdict
            project.round()
            for host in (ann, ben):
                host.sync()
                project.later(60)
                host.succeed_all(cpu=0)
        project.round()
        assert project.value("SELECT count(*) FROM mismatches") == 3
        assert project.rows("SELECT host_id FROM hosts WHERE state = 'quarantined'") == [
            (liar.host_id,)
        ]
        log = project.review()
        assert log.results == 6
        assert {u.name for u in log.users} == {"ann", "ben"}
        assert log.unpaid == {"refused": 3}


def test_a_single_users_project_is_credited_after_the_gate(project: ServerProject) -> None:
    project.deploy("short_walk", count=4)
    host = project.host()
    host.sync()
    project.later(60)
    host.succeed_all(cpu=0)
    assert project.value("SELECT count(*) FROM comparisons") == 0
    assert project.review().results == 4


def test_results_that_ignore_the_seed_confirm_nothing(project: ServerProject) -> None:
    project.deploy("short_walk", count=8)
    host = project.host(cores=8)
    host.sync()
    project.later(60)
    host.sync([host.success(grant, exponent=0.5) for grant in host.held.values()], cpu=0)
    finding = project.review().findings[0]
    assert (finding.verdict, finding.seeds) == ("insufficient", 8)
    assert "one sample" in finding.reason


def test_fill_idle_gives_each_live_host_exactly_what_is_idle(project: ServerProject) -> None:
    busy, idle, gone = project.host(cores=4), project.host(cores=16), project.host(cores=8)
    gone.sync()
    project.later(3600)
    busy.sync(cpu=1)
    idle.sync()
    made = project.deploy("short_walk", fill_idle=True)
    assert made.hosts == {
        idle.host_id: {"cpu": 16, "gpu": 0},
        busy.host_id: {"cpu": 1, "gpu": 0},
    }
    assert project.deploy("short_walk", fill_idle=True).workunits == 0
    assert len(idle.sync().grants) == 16


def test_deploying_again_after_the_first_is_fetched_adds_nothing(project: ServerProject) -> None:
    host = project.host(cores=4)
    host.sync()
    project.deploy("short_walk", fill_idle=True)
    host.sync()
    assert project.deploy("short_walk", fill_idle=True).workunits == 0


def test_a_grant_does_not_walk_past_the_workunits_of_other_experiments(
    project: ServerProject,
) -> None:
    """The query plan for any number of workunits uses an index on exactly the wanted ones."""
    project.deploy("short_walk", count=5_000)
    project.publish(name="short_walk", version="1.0.1")
    project.execute("UPDATE versions SET state = 'active'")
    project.deploy("short_walk@1.0.1", count=5)
    project.execute("ANALYZE")
    query = POOL_WORKUNITS.replace(
        "%s", '\'[{"version_id": 2, "device": "cpu", "floor": 0, "most": 5}]\''
    )
    plan = "\n".join(line[0] for line in project.rows("EXPLAIN ANALYZE " + query))
    assert "queue_pool" in plan
    assert "Seq Scan" not in plan
    assert "Rows Removed by Filter" not in plan
