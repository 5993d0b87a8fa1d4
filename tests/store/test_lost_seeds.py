"""A seed that one host lost or failed goes to another host, with the real queue."""

from __future__ import annotations

from tests.support.server_project import ServerProject


def test_a_failed_seed_goes_to_a_host_that_has_not_had_it(project: ServerProject) -> None:
    project.deploy("short_walk", count=1)
    first, second = project.host("ann"), project.host("ben")
    second.sync(cpu=0)  # it is there
    (grant,) = first.sync(cpu=1).grants
    project.later(60)
    first.sync([first.failure(grant)], cpu=0)
    assert not first.sync(cpu=4).grants, "it has failed this seed, and another host is there"
    (again,) = second.sync(cpu=4).grants
    assert again.seed == grant.seed


def test_a_lost_seed_goes_to_a_host_that_has_not_had_it(project: ServerProject) -> None:
    project.deploy("short_walk", count=1)
    first, second = project.host("ann"), project.host("ben")
    second.sync(cpu=0)
    (grant,) = first.sync(cpu=1).grants
    assert not first.sync(cpu=1, forget=True).grants, "the host has lost it"
    (again,) = second.sync(cpu=1).grants
    assert again.seed == grant.seed


def test_the_only_host_gets_it_again(project: ServerProject) -> None:
    project.deploy("short_walk", count=1)
    host = project.host()
    (grant,) = host.sync(cpu=1).grants
    project.later(60)
    host.sync([host.failure(grant)], cpu=0)
    (again,) = host.sync(cpu=1).grants
    assert again.seed == grant.seed


def test_after_a_day_anybody_may_have_it(project: ServerProject) -> None:
    project.deploy("short_walk", count=1)
    first, second = project.host("ann"), project.host("ben")
    (grant,) = first.sync(cpu=1).grants
    project.later(60)
    first.sync([first.failure(grant)], cpu=0)
    project.later(90_000)
    second.sync(cpu=0)
    (again,) = first.sync(cpu=1).grants
    assert again.seed == grant.seed
