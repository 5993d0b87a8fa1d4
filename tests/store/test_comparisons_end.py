"""Every comparison ends, also where nobody can compute what it lacks."""

from __future__ import annotations

from typing import Any

import pytest

from axiom_protocol.manifest import Manifest
from axiom_server.publish.publish import set_state
from tests.support.cluster import transaction
from tests.support.server_project import Host, ServerProject

OPEN = "SELECT count(*) FROM comparisons WHERE state IN ('wanted', 'placed', 'disputed')"
CREDITED = "SELECT count(*) FROM credit WHERE host_id = %s"
COUNTED = "SELECT count(*) FROM results WHERE validated"


def newcomers(project: ServerProject, count: int) -> list[Host]:
    made = [project.host(f"newcomer{n}", vouched=False) for n in range(count)]
    for host in made:
        host.sync(cpu=0)
    return made


def compute(host: Host, **result: Any) -> None:
    host.sync(cpu=1)
    host.project.later(60)
    host.sync([host.success(g, **result) for g in list(host.held.values())], cpu=0)


def change_state(project: ServerProject, manifest: Manifest, state: str) -> None:
    transaction(project.conninfo, lambda c: set_state(c, manifest.ref, state, "by staff"))


@pytest.mark.parametrize("way", ["replaced", "retired"])
def test_results_of_a_retired_version_are_credited_without_replicas(
    project: ServerProject, way: str
) -> None:
    """Otherwise they would wait for ever: only active versions are computed."""
    first, *_ = newcomers(project, 3)
    project.deploy("short_walk", count=1)
    compute(first)
    project.round()
    assert project.value(OPEN) == 1
    if way == "replaced":
        project.publish("short_walk", version="1.0.1")
    else:
        change_state(project, project.publish("short_walk"), "retired")
    project.round()
    assert project.value(OPEN) == 0
    project.review()
    assert project.value(CREDITED, first.host_id) == 1
    assert project.value("SELECT pending FROM hosts WHERE host_id = %s", first.host_id) == 0
    assert project.value(COUNTED) == 0, "nobody has confirmed it"


def test_disputes_of_a_retired_version_end(project: ServerProject) -> None:
    hosts = newcomers(project, 3)
    project.deploy("short_walk", count=1)
    for number, host in enumerate(hosts[:2]):
        project.round()
        compute(host, exponent=0.4 + number)
    project.round()
    assert project.value(OPEN) == 1
    project.publish("short_walk", version="1.0.1")
    project.round()
    assert project.value(OPEN) == 0
    project.review()
    assert project.value("SELECT count(*) FROM tasks WHERE state = 'reported'") == 0


def test_results_are_compared_again_when_their_version_is_resumed(project: ServerProject) -> None:
    hosts = newcomers(project, 3)
    manifest = project.publish("short_walk")
    project.deploy("short_walk", count=1)
    compute(hosts[0])
    change_state(project, manifest, "retired")
    project.round()
    assert project.value(OPEN) == 0
    change_state(project, manifest, "active")
    assert project.value(OPEN) == 1
    for host in hosts[1:]:
        project.round()
        compute(host)
    for host in hosts[1:]:
        project.round()
        compute(host)
    project.round()
    assert project.value(OPEN) == 0
    assert project.value(COUNTED) == 3
    project.review()
    assert [project.value(CREDITED, host.host_id) for host in hosts] == [1, 1, 1]


def test_no_replica_is_reserved_for_a_host_that_never_synced(project: ServerProject) -> None:
    """Its agent did not get the answer when it joined, and has joined again as another host."""
    first, second = newcomers(project, 2)
    ghost = project.host("ghost", vouched=False)
    project.deploy("short_walk", count=20)
    for _ in range(20):
        compute(first)
        project.round()
    assert project.value("SELECT count(*) FROM queue WHERE host_id = %s", ghost.host_id) == 0
    assert project.value("SELECT count(*) FROM queue WHERE host_id = %s", second.host_id) > 0


def test_results_wait_for_a_host_that_has_just_joined(project: ServerProject) -> None:
    """They are not given up: it can check them once it has synced."""
    (first,) = newcomers(project, 1)
    joined = project.host("joined", vouched=False)
    project.deploy("short_walk", count=1)
    compute(first)
    project.round()
    assert project.value(OPEN) == 1
    joined.sync(cpu=0)
    project.round()
    compute(joined)
    project.round()
    assert project.value(COUNTED) == 2


def test_a_host_that_never_synced_keeps_no_workunit_from_others(project: ServerProject) -> None:
    (only,) = newcomers(project, 1)
    project.host("ghost", vouched=False)
    project.deploy("short_walk", count=1)
    for _ in range(2):  # a workunit that a host has failed goes to another one, if there is any
        only.sync(cpu=1)
        assert len(only.held) == 1
        project.later(60)
        only.sync([only.failure(g) for g in list(only.held.values())], cpu=0)
        project.later(3600)
