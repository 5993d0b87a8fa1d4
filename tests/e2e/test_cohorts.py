"""Cohorts through a real server and a real agent: their time, their credit, and their faults.

Each test leaves the agent running and without tasks; after each, no seed is lost, none is
credited twice, and the ledger agrees with the totals.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest

from axiom_server.store import experiments
from tests.support.cluster import transaction
from tests.support.cohort_project import (
    CohortHost,
    CohortProject,
    Deployment,
    cohort_project,
)
from tests.support.processes import still_running, wait_for

SEEDS = 4
KILL_SECONDS_MAX = 5.0  # as in test_main_job


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CohortProject]:
    made = cohort_project(tmp_path_factory.mktemp("cohorts"))
    yield made
    assert made.server.stop() == 0


@pytest.fixture(scope="module")
def the_host(
    project: CohortProject, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CohortHost]:
    made = CohortHost(tmp_path_factory.mktemp("host") / "agent", project, "Ada")
    made.begin()
    yield made
    made.close()


@pytest.fixture
def host(project: CohortProject, the_host: CohortHost) -> Iterator[CohortHost]:
    """The agent, and afterwards the check of the ledger."""
    yield the_host
    the_host.release([task.task_id for task in the_host.snapshot().tasks])  # where a test failed
    the_host.idle()
    check_ledger(project)


def check_ledger(project: CohortProject) -> None:
    """Every success is credited once, with its own time, and the totals are the ledger's sums."""
    project.data.review()
    rows = project.data.rows
    succeeded = rows(
        "SELECT task_id, elapsed_seconds FROM tasks WHERE outcome = 'success' ORDER BY task_id"
    )
    credited = rows("SELECT task_id, elapsed_seconds FROM credit ORDER BY task_id")
    assert credited == succeeded
    twice = "SELECT workunit_id FROM tasks WHERE outcome = 'success' GROUP BY 1 HAVING count(*) > 1"
    assert not rows(twice)
    [(ledger,)] = rows("SELECT COALESCE(sum(amount), 0) FROM credit")
    assert ledger == 2 * len(succeeded)
    for table in ("hosts", "users"):
        assert rows(f"SELECT sum(credit_total) FROM {table}") == [(ledger,)]


def test_a_cohort_is_reported_apart_and_shares_its_time(
    project: CohortProject, host: CohortHost
) -> None:
    before = time.monotonic()
    deployed = project.deploy(SEEDS, hold=True)
    ids = host.hold(SEEDS)
    time.sleep(2.0)
    host.release(ids)
    host.idle()
    after = time.monotonic()
    found = deployed.ended()
    assert [task.outcome for task in found] == ["success"] * SEEDS
    assert {task.result["seeds"] for task in found if task.result} == {SEEDS}
    assert len({task.result["exponent"] for task in found if task.result}) == SEEDS
    shares = [task.elapsed_seconds or 0.0 for task in found]
    assert shares == pytest.approx([shares[0]] * SEEDS)
    assert 2.0 <= sum(shares) <= after - before


def test_after_each_kill_the_seeds_resume_together_from_their_own_checkpoints(
    project: CohortProject, host: CohortHost
) -> None:
    deployed = project.deploy(SEEDS, hold=True)
    ids = host.hold(SEEDS)
    host.cohort_process().kill()
    wait_for("the end of the process", lambda: not host.views("running"))
    ids = host.hold(SEEDS)
    zygote = host.cohort_process().parent()
    assert zygote is not None
    zygote.kill()
    wait_for("the end of the process", lambda: not host.views("running"))
    ids = host.hold(SEEDS)
    cohort = host.cohort_process()
    host.kill()
    assert not still_running([cohort], KILL_SECONDS_MAX)
    host.begin()
    host.release(host.hold(SEEDS))
    host.idle()
    check_resumed(deployed, ids)


def test_a_stopped_agent_keeps_the_seeds_and_a_drain_ends_with_them(
    project: CohortProject, host: CohortHost
) -> None:
    deployed = project.deploy(SEEDS, hold=True)
    ids = host.hold(SEEDS)
    cohort = host.cohort_process()
    assert host.stop() == 0
    assert not still_running([cohort], 0)
    host.begin()
    assert host.hold(SEEDS) == ids
    host.ask("drain")
    more = project.deploy(1)
    host.release(ids)
    host.idle()
    check_resumed(deployed, ids)
    assert not more.tasks()
    host.ask("resume")
    wait_for("the work that waited", more.succeeded)


def check_resumed(deployed: Deployment, ids: list[int]) -> None:
    """All seeds had their first configuration, in one process, and none was granted again."""
    found = deployed.tasks()
    assert [task.task_id for task in found] == sorted(ids)
    assert [task.outcome for task in found] == ["success"] * SEEDS
    assert {task.result["restored"] for task in found if task.result} == {1}
    assert {task.result["seeds"] for task in found if task.result} == {SEEDS}


def test_a_pause_stops_the_process_and_its_time(project: CohortProject, host: CohortHost) -> None:
    before = time.monotonic()
    deployed = project.deploy(SEEDS, hold=True)
    ids = host.hold(SEEDS)
    cohort = host.cohort_process()
    host.ask("pause")
    wait_for("the pause", lambda: cohort.status() == psutil.STATUS_STOPPED)
    assert len(host.views("paused")) == SEEDS
    paused = time.monotonic()
    host.release(ids)  # a process that runs would end now
    time.sleep(1.0)
    assert len(host.views("paused")) == SEEDS
    seconds = time.monotonic() - paused
    host.ask("resume")
    wait_for("all results", deployed.succeeded)
    spent = time.monotonic() - before
    assert sum(task.elapsed_seconds or 0.0 for task in deployed.ended()) <= spent - seconds


def test_cancelled_members_leave_the_others_alone(project: CohortProject, host: CohortHost) -> None:
    """One is ended by the owner, one by the server, whose lease is over."""
    deployed = project.deploy(SEEDS, hold=True)
    ids = host.hold(SEEDS)
    cohort = host.cohort_process()
    host.ask("abort", task_id=ids[0])  # the process has its name
    project.data.execute("UPDATE tasks SET deadline_at = now() WHERE task_id = %s", ids[1])
    project.expire()
    host.ask("sync")
    wait_for(
        "both to be cancelled",
        lambda: [task.task_id for task in host.views("running")] == ids[2:],
    )
    assert cohort.is_running()
    host.release(ids)
    wait_for("the end of the process", lambda: not cohort.is_running())
    again = host.hold(2)  # both workunits were queued again
    host.release(again)
    wait_for("all results", deployed.succeeded)
    found = {task.task_id: task for task in deployed.tasks()}
    assert sorted(found) == sorted([*ids, *again])
    assert [found[i].outcome for i in ids] == ["cancelled", "cancelled", "success", "success"]
    assert {(found[i].result or {})["seeds"] for i in ids[2:]} == {SEEDS}
    wait_for("their folders to be deleted", lambda: not any(host.folders.tasks.iterdir()))


def test_a_seed_that_ends_the_process_is_found_and_reported_alone(
    project: CohortProject, host: CohortHost
) -> None:
    outcomes = {
        "raised": "failed", "abort": "failed", "memory": "over_memory", "time": "timed_out",
        "disk": "over_disk", "returned": "failed",
    }  # fmt: skip
    held = project.deploy(SEEDS, hold=True)
    ids = host.hold(SEEDS)
    first, *more = ({"fault": fault} for fault in outcomes)
    deployed = project.deploy(SEEDS, *more, **first)
    host.ask("sync")
    wait_for("all tasks", lambda: len(host.snapshot().tasks) == held.count + deployed.count)
    project.server.run("experiments", "retire", "cohort_walk")  # no failed one is granted again
    host.release(ids)
    host.idle()
    project.data.execute("UPDATE versions SET state = 'active'")  # without queueing those
    assert held.succeeded()
    for fault, outcome in outcomes.items():
        found = [task for task in deployed.tasks() if task.parameters["fault"] == fault]
        ended = sorted(task.outcome or "" for task in found)
        assert ended == sorted([outcome, *["success"] * (SEEDS - 1)]), fault
        together = SEEDS if fault == "returned" else 1
        assert {task.result["seeds"] for task in found if task.result} == {together}, fault


def test_a_version_that_is_stopped_ends_its_cohort_and_a_withdrawn_one_does_not_begin_again(
    project: CohortProject, host: CohortHost
) -> None:
    """The last test here: afterwards no version is left."""
    deployed = project.deploy(SEEDS, hold=True)
    ids = host.hold(SEEDS)
    cohort = host.cohort_process()
    set_state(project, "stopped")
    host.ask("sync")
    host.idle()
    assert not still_running([cohort], KILL_SECONDS_MAX)
    set_state(project, "active")  # which queues the seeds again
    again = host.hold(SEEDS)
    assert not set(ids) & set(again)
    project.server.run("withdraw", "cohort_walk@1.0.0")
    host.kill()
    host.begin()  # it verifies bundles again
    host.idle()
    found = deployed.tasks()
    assert [task.task_id for task in found] == sorted([*ids, *again])
    assert not any(task.result or task.state == "leased" for task in found)
    assert all("withdrawn" in task.message for task in found[SEEDS:])


def set_state(project: CohortProject, state: str) -> None:
    """As the watchdog and staff do."""
    version_id = project.data.value("SELECT version_id FROM versions")
    transaction(
        project.data.conninfo, lambda c: experiments.set_state(c, version_id, state, "a test")
    )
