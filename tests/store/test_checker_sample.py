"""In a large project, replicas are placed on hosts of a part of the accounts, by the same rules."""

from __future__ import annotations

import pytest

from axiom_server.decide.replicate import Panel
from axiom_server.decide.standing import StandingPolicy
from axiom_server.maintenance import comparison
from axiom_server.store import comparisons
from tests.support.cluster import transaction
from tests.support.server_project import Host, ServerProject

JUDGE = """UPDATE users SET validated = 50, agreeing = 5, created_at = now() - interval '60 days'
    WHERE user_id = (SELECT user_id FROM hosts WHERE host_id = %s)"""


def synced(project: ServerProject, name: str) -> Host:
    host = project.host(name, vouched=False)
    host.sync(cpu=0)
    return host


def read(project: ServerProject, accounts_max: int) -> Panel:
    return transaction(
        project.conninfo,
        lambda c: comparisons.load_panel(c, StandingPolicy(), 1800.0, accounts_max),
    )


@pytest.mark.parametrize(
    ("accounts_max", "most", "judges", "complete", "every_judge"),
    [(1, 2, 1, False, False), (3, 6, 3, False, True), (8, 9, 3, False, True),
     (9, 9, 3, True, True)],
)  # fmt: skip
def test_judges_and_others_are_read_up_to_a_number(
    project: ServerProject, accounts_max: int, most: int, judges: int, complete: bool,
    every_judge: bool,
) -> None:  # fmt: skip
    hosts = [synced(project, f"volunteer{n}") for n in range(9)]
    for host in hosts[:3]:
        project.execute(JUDGE, host.host_id)
    sample = read(project, accounts_max)
    found = {checker.host_id for checker in sample.checkers}
    assert len(found) <= most
    assert len(found & {host.host_id for host in hosts[:3]}) >= judges
    assert (sample.complete, sample.every_judge) == (complete, every_judge)


def test_other_accounts_are_drawn_each_time(project: ServerProject) -> None:
    hosts = {synced(project, f"volunteer{n}").host_id for n in range(6)}
    seen: set[int] = set()
    for _ in range(200):
        seen |= {checker.host_id for checker in read(project, 1).checkers}
    assert seen == hosts


def test_a_host_outside_the_sample_gets_what_nobody_in_it_can_compute(
    project: ServerProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "SAMPLED_ACCOUNTS", 1)
    first, able, *others = [synced(project, f"volunteer{n}") for n in range(20)]
    project.execute(
        "UPDATE hosts SET memory_bytes = 1 WHERE host_id = ANY(%s)",
        [host.host_id for host in others],
    )
    project.deploy("short_walk", count=1)
    first.sync(cpu=1)
    project.later(60)
    first.succeed_all(cpu=0)
    project.round()
    assert project.rows("SELECT host_id, purpose FROM queue") == [(able.host_id, "replica")]
