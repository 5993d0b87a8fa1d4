"""For any order and repetition of reports, reviews and crashes, no task is credited twice.

The sum of the ledger is the sum of the credited tasks, and the totals of users and hosts are its
sums, after every step of every sequence that hypothesis generates.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from axiom_protocol.messages import Report
from axiom_server.review.review import review
from axiom_server.store.database import connect
from tests.support.cluster import fresh_database
from tests.support.server_project import Host, ServerProject

ACTIONS = ("ask", "report", "repeat", "forget", "review", "crash", "expire", "round")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(ACTIONS),
        st.integers(0, 2),  # which host
    ),
    min_size=8,
    max_size=30,
)  # fmt: skip


class PowerCut(Exception):
    """The process ends before it commits."""


@settings(
    max_examples=12, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(steps=STEPS)
def test_the_ledger_is_the_sum_of_credited_tasks(
    postgres: str, steps: list[tuple[str, int]]
) -> None:
    with fresh_database(postgres) as conninfo:
        project = ServerProject(conninfo)
        project.publish()
        project.deploy("short_walk", count=60)
        fleet = [project.host(user=user, cores=2) for user in ("ann", "ben", "ann")]
        sent: dict[int, list[Report]] = {host.host_id: [] for host in fleet}
        for step, index in steps:
            play(project, fleet[index], step, sent[fleet[index].host_id])
        project.round()
        project.review()
        check(project)


def play(project: ServerProject, host: Host, step: str, sent: list[Report]) -> None:
    """One thing that happens."""
    if step == "ask":
        host.sync()
    elif step == "report":
        project.later(120)
        reports = [host.success(grant, 110.0) for grant in host.held.values()]
        host.sync(reports)
        sent += reports
    elif step == "repeat":
        host.sync(sent[-4:], cpu=0)
    elif step == "forget":
        host.sync(forget=True)
    elif step == "expire":
        project.later(8 * 3600)
    elif step == "round":
        project.round()
    elif step == "review":
        project.review()
    else:
        crash_in_review(project)


def crash_in_review(project: ServerProject) -> None:
    """A review that has written everything, and is never committed."""

    async def inside() -> None:
        async with connect(project.conninfo) as connection:
            await review(connection, project.config)
            raise PowerCut

    with pytest.raises(PowerCut):
        asyncio.run(inside())


def check(project: ServerProject) -> None:
    """The ledger against the tasks, and the totals against the ledger."""
    credited = project.value(
        "SELECT count(*) FROM tasks WHERE state = 'reviewed' AND outcome = 'success' "
        "AND refusal = '' AND elapsed_seconds > 0"
    )
    entries, tasks, total = project.rows(
        "SELECT count(*), count(DISTINCT task_id), COALESCE(sum(amount), 0) FROM credit"
    )[0]
    assert entries == tasks == credited
    assert total == project.value("SELECT COALESCE(sum(credit), 0) FROM sessions")
    for table, key in (("users", "user_id"), ("hosts", "host_id")):
        assert total == project.value(f"SELECT sum(credit_total) FROM {table}")
        assert not project.rows(
            f"SELECT FROM {table} t WHERE credit_total <> (SELECT COALESCE(sum(amount), 0) "
            f"FROM credit c WHERE c.{key} = t.{key})"
        )
