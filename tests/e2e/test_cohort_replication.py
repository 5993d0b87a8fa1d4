"""Replication of seeds that ran in a cohort: their copies run alone, on another account's host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cohort_project import CohortHost, CohortProject, Deployment, cohort_project
from tests.support.processes import wait_for

SEEDS = 4
COMPARED = """SELECT w.seed, c.state FROM comparisons c JOIN workunits w USING (workunit_id)
              WHERE w.deployment_id = %s ORDER BY w.seed"""
SYNCED = "SELECT FROM hosts WHERE host_id = %s AND last_seen_at > created_at"
PAID = """SELECT t.task_id, COALESCE(c.amount, 0) FROM tasks t JOIN workunits w USING (workunit_id)
          LEFT JOIN credit c USING (task_id) WHERE w.deployment_id = %s ORDER BY t.task_id"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CohortProject]:
    made = cohort_project(tmp_path_factory.mktemp("copies"))
    yield made
    assert made.server.stop() == 0


@pytest.fixture(scope="module")
def cohort_host(
    project: CohortProject, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CohortHost]:
    """A host of a volunteer, which runs seeds together."""
    made = CohortHost(tmp_path_factory.mktemp("one") / "agent", project, "Ada")
    yield made
    made.close()


@pytest.fixture(scope="module")
def single_host(
    project: CohortProject, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CohortHost]:
    """A host of staff, which has one task in hand at a time."""
    made = CohortHost(tmp_path_factory.mktemp("two") / "agent", project, "Bob")
    project.server.run("hosts", "trust", str(made.host_id))
    made.begin(buffer="0 s")  # only a host that has synced gets copies
    wait_for("its first sync", lambda: project.data.rows(SYNCED, made.host_id))
    assert made.stop() == 0
    yield made
    made.close()


def compute_twice(
    project: CohortProject, first: CohortHost, second: CohortHost, **parameters: Any
) -> Deployment:
    """Let the first host compute seeds as a cohort, and the second its copies; compare them."""
    deployed = project.deploy(SEEDS, **parameters)
    first.begin()
    wait_for("the results of the cohort", deployed.succeeded)
    assert first.stop() == 0
    project.data.round()
    second.begin(buffer="0 s")
    wait_for("the copies", lambda: len(deployed.ended()) == 2 * SEEDS)
    assert second.stop() == 0
    project.data.round()
    project.data.review()
    by_host = {
        host.host_id: {t.result["seeds"] for t in deployed.ended() if t.result
                       and t.host_id == host.host_id}
        for host in (first, second)
    }  # fmt: skip
    assert by_host == {first.host_id: {SEEDS}, second.host_id: {1}}
    return deployed


def test_a_copy_of_a_cohort_and_one_that_ran_alone_agree(
    project: CohortProject, cohort_host: CohortHost, single_host: CohortHost
) -> None:
    deployed = compute_twice(project, cohort_host, single_host)
    rows = project.data.rows
    assert [state for _, state in rows(COMPARED, deployed.deployment_id)] == ["agreed"] * SEEDS
    assert [amount for _, amount in rows(PAID, deployed.deployment_id)] == [2] * 2 * SEEDS
    assert not rows("SELECT FROM mismatches")


def test_a_wrong_number_of_one_member_is_refused_and_the_others_count(
    project: CohortProject, cohort_host: CohortHost, single_host: CohortHost
) -> None:
    deployed = compute_twice(project, cohort_host, single_host, fault="wrong")
    rows = project.data.rows
    states = dict(rows(COMPARED, deployed.deployment_id))
    [wrong] = [seed for seed in states if seed % 4 == 1]
    assert states.pop(wrong) == "settled"
    assert list(states.values()) == ["agreed"] * (SEEDS - 1)
    [(refused, host_id)] = rows("SELECT task_id, host_id FROM mismatches")
    assert host_id == cohort_host.host_id
    paid = dict(rows(PAID, deployed.deployment_id))
    assert paid.pop(refused) == 0
    assert list(paid.values()) == [2] * (2 * SEEDS - 1)
    assert rows("SELECT state FROM hosts WHERE host_id = %s", host_id) == [("active",)]
