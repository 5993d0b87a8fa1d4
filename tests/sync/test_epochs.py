"""A database restored from an older backup, on a real PostgreSQL: each result is credited once."""

from __future__ import annotations

import msgspec
import pytest

from axiom_protocol.messages import Grant, HostStatus, Report, Work
from axiom_server.store import epochs
from axiom_server.store.database import Connection
from tests.support.cluster import transaction
from tests.support.server_project import Host, ServerProject


def work_of(grant: Grant) -> Work:
    return Work(
        experiment=grant.experiment, version=grant.version, parameters=grant.parameters,
        seed=grant.seed, budget_seconds=grant.budget_seconds,
    )  # fmt: skip


def described(report: Report, grant: Grant) -> Report:
    return msgspec.structs.replace(report, work=work_of(grant))


def restore(project: ServerProject) -> None:
    """Undo all that was granted and reported, as if a backup from before had been restored."""

    async def work(connection: Connection) -> None:
        await connection.execute("""INSERT INTO queue (workunit_id, version_id, device)
            SELECT DISTINCT workunit_id, version_id, device FROM tasks ON CONFLICT DO NOTHING""")
        await connection.execute("DELETE FROM tasks")
        await connection.execute("DELETE FROM results")
        await connection.execute("ALTER TABLE tasks ALTER COLUMN task_id RESTART WITH 1")
        await epochs.begin(connection)

    transaction(project.conninfo, work)


@pytest.fixture
def lost(project: ServerProject) -> tuple[Host, list[Grant], list[Report]]:
    """A host whose four reported results the restored server has lost."""
    project.deploy("short_walk", count=8)
    host = project.host(cores=4)
    epoch = host.sync().epoch
    grants = list(host.held.values())
    project.later(60)
    reports = [host.success(grant) for grant in grants]
    host.sync(reports, cpu=0)
    assert project.value("SELECT count(*) FROM results") == 4
    restore(project)
    assert host.sync(cpu=0).epoch not in ("", epoch)
    return host, grants, reports


def again(grants: list[Grant], reports: list[Report]) -> list[Report]:
    return [described(report, grant) for report, grant in zip(reports, grants, strict=True)]


def test_results_of_the_previous_epoch_are_credited_once(
    project: ServerProject, lost: tuple[Host, list[Grant], list[Report]]
) -> None:
    host, grants, reports = lost
    for _ in range(3):
        answer = host.sync(again(grants, reports), cpu=0, epoch="new")
        assert [a.refusal for a in answer.acknowledged] == [""] * 4
        assert {a.task_id for a in answer.acknowledged} == {g.task_id for g in grants}
    assert project.value("SELECT count(*) FROM results") == 4
    assert project.value("SELECT count(*) FROM queue") == 4
    project.review()
    project.review()
    assert project.value("SELECT count(*) FROM credit") == 4
    assert project.value("SELECT count(DISTINCT task_id) FROM credit") == 4


def test_task_numbers_are_never_given_out_again(
    project: ServerProject, lost: tuple[Host, list[Grant], list[Report]]
) -> None:
    host, grants, _ = lost
    new = host.sync().grants
    assert min(g.task_id for g in new) > max(g.task_id for g in grants) + 1_000_000
    restore(project)
    newest = host.sync(forget=True).grants
    assert min(g.task_id for g in newest) > max(g.task_id for g in new)


def test_a_report_without_its_work_is_asked_for_again(
    project: ServerProject, lost: tuple[Host, list[Grant], list[Report]]
) -> None:
    """The agent learns of the new epoch only from the answer."""
    host, grants, reports = lost
    assert host.sync(reports, cpu=0, epoch="before").acknowledged == []
    answer = host.sync(again(grants, reports), cpu=0, epoch="before")
    assert len(answer.acknowledged) == 4


def test_an_agent_of_0_1_0_is_told_and_sends_no_more(
    project: ServerProject, lost: tuple[Host, list[Grant], list[Report]]
) -> None:
    host, _, reports = lost
    answer = host.sync(reports, cpu=0)
    assert all("never granted" in a.refusal for a in answer.acknowledged)
    assert len(answer.acknowledged) == 4


def test_tasks_of_the_previous_epoch_may_be_finished(
    project: ServerProject, lost: tuple[Host, list[Grant], list[Report]]
) -> None:
    host, grants, _ = lost
    host.held = {g.task_id: g for g in grants}
    assert host.sync(cpu=0, epoch="before").cancelled == []
    assert host.sync(cpu=0).cancelled == sorted(g.task_id for g in grants)  # 0.1.0 cannot report


def test_a_workunit_that_the_host_has_again_is_reported_with_the_old_result(
    project: ServerProject, lost: tuple[Host, list[Grant], list[Report]]
) -> None:
    host, grants, reports = lost
    project.execute(
        "DELETE FROM queue WHERE workunit_id IN (SELECT workunit_id FROM workunits WHERE seed > 4)"
    )
    host.sync(cpu=4)
    same = {g.seed: g for g in host.held.values()}
    assert set(same) & {g.seed for g in grants}
    answer = host.sync(again(grants, reports), cpu=0, epoch="new")
    assert sorted(answer.cancelled) == sorted(
        same[g.seed].task_id for g in grants if g.seed in same
    )
    project.review()
    assert project.value("SELECT count(*) FROM credit") == 4


@pytest.mark.parametrize("outcome", ["failed", "lost", "success"])
def test_an_old_result_is_kept_whatever_became_of_the_same_workunit_since(
    project: ServerProject, lost: tuple[Host, list[Grant], list[Report]], outcome: str
) -> None:
    """The host was granted it again by the answer that told it of the new epoch."""
    host, grants, reports = lost
    seeds = [grant.seed for grant in grants]
    project.execute(
        "DELETE FROM queue WHERE workunit_id NOT IN "
        "(SELECT workunit_id FROM workunits WHERE seed = ANY(%s))", seeds,
    )  # fmt: skip
    host.sync(cpu=4)
    assert sorted(g.seed for g in host.held.values()) == sorted(seeds)
    project.later(60)
    host.sync(
        [msgspec.structs.replace(host.success(g), outcome=outcome) for g in host.held.values()]
        if outcome == "success"
        else [msgspec.structs.replace(host.failure(g), outcome=outcome)
              for g in host.held.values()],
        cpu=0,
    )  # fmt: skip
    for _ in range(2):
        answer = host.sync(again(grants, reports), cpu=0, epoch="new")
        assert [a.refusal for a in answer.acknowledged] == [""] * 4
    assert project.value("SELECT count(*) FROM queue") == 0
    project.review()
    assert project.value("SELECT count(*) FROM credit") == 4
    assert project.value("SELECT count(*) FROM results") == 4


def test_a_workunit_deployed_after_the_backup_is_made_again_and_its_seed_not_reused(
    project: ServerProject, lost: tuple[Host, list[Grant], list[Report]]
) -> None:
    host, grants, reports = lost
    seeds = [g.seed for g in grants]
    project.execute("DELETE FROM queue")
    project.execute("DELETE FROM workunits")
    project.execute("UPDATE parameter_sets SET next_seed = 1")
    answer = host.sync(again(grants, reports), cpu=0, epoch="new")
    assert [a.refusal for a in answer.acknowledged] == [""] * 4
    project.deploy("short_walk", count=5)
    project.review()
    assert project.value("SELECT count(*) FROM credit") == 4
    assert project.value("SELECT count(*) FROM workunits WHERE seed = ANY(%s)", seeds) == 4


def test_results_of_tasks_that_cannot_have_been_granted_are_refused(
    project: ServerProject, lost: tuple[Host, list[Grant], list[Report]]
) -> None:
    host, grants, reports = lost
    wrong = [
        {"seed": 2**52}, {"version": "9.9.9"}, {"parameters": {"no_such": 1}}, {"experiment": "x"},
    ]  # fmt: skip
    claims = [
        msgspec.structs.replace(r, work=msgspec.structs.replace(work_of(g), **change))
        for r, g, change in zip(reports, grants, wrong, strict=True)
    ]
    answer = host.sync(claims, cpu=0, epoch="new")
    assert all(a.refusal for a in answer.acknowledged)
    assert len(answer.acknowledged) == 4
    assert project.value("SELECT count(*) FROM tasks") == 0
    assert project.value("SELECT max(next_seed) FROM parameter_sets") < 100


def test_the_recovered_results_of_a_newcomer_are_limited(project: ServerProject) -> None:
    project.deploy("short_walk", count=1)
    host = project.host(cores=4, vouched=False)
    [grant] = host.sync(cpu=1).grants
    restore(project)
    many = [
        described(
            msgspec.structs.replace(host.success(grant), task_id=grant.task_id + n),
            msgspec.structs.replace(grant, seed=grant.seed + n),
        )
        for n in range(400)
    ]
    host.held = {}
    answer = host.sync(many, cpu=0, epoch="new")
    refused = [a for a in answer.acknowledged if "more results" in a.refusal]
    assert len(answer.acknowledged) == 400
    assert len(refused) == 400 - 20 * 8
    again = host.sync(many[-300:], cpu=0, epoch="new")
    assert all(a.refusal for a in again.acknowledged if a.task_id >= grant.task_id + 160)


def test_a_project_that_was_never_restored_recovers_nothing(project: ServerProject) -> None:
    project.deploy("short_walk", count=1)
    host = project.host()
    [grant] = host.sync().grants
    claim = described(
        msgspec.structs.replace(host.success(grant), task_id=grant.task_id + 5), grant
    )  # fmt: skip
    answer = host.sync([claim], cpu=0, epoch="x")
    assert "never granted" in answer.acknowledged[0].refusal


def test_hosts_learn_of_recorded_backups(project: ServerProject) -> None:
    host = project.host()
    assert host.sync().backed_up_at == 0
    number = transaction(project.conninfo, epochs.begin_backup)
    assert host.sync().backed_up_at == 0
    transaction(project.conninfo, lambda c: epochs.finish_backup(c, number))
    answer = host.sync()
    assert 0 < answer.backed_up_at < answer.answered_at
    transaction(project.conninfo, epochs.begin)
    assert host.sync().restored_from == answer.backed_up_at


def test_nobody_stays_signed_in(project: ServerProject) -> None:
    """Who signed out after the backup would be signed in again."""
    user_id = project.host(user="Ann") and project.value("SELECT user_id FROM users")
    later = "now() + interval '1 day'"
    project.execute("INSERT INTO staff (name, key) VALUES ('Sam', 'k')")
    project.execute(f"INSERT INTO web_sessions VALUES ('a', %s, {later})", user_id)
    project.execute(f"INSERT INTO sign_in_links VALUES ('b', %s, {later})", user_id)
    project.execute(f"INSERT INTO staff_sessions VALUES ('c', 'Sam', {later})")
    transaction(project.conninfo, epochs.begin)
    for table in ("web_sessions", "sign_in_links", "staff_sessions"):
        assert project.value(f"SELECT count(*) FROM {table}") == 0


def test_limits_that_the_account_set_after_the_backup_do_not_stay(project: ServerProject) -> None:
    """The restored server knows nothing of them, and no page of it could end them."""
    host = project.host()
    told = host.sync(cpu=0, status=HostStatus(revision="lost")).account
    assert told is not None
    assert told.settings == []
    assert host.sync(cpu=0, status=HostStatus(revision=told.revision)).account is None
