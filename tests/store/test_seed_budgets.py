"""Seed budgets on the real database: issued where seeds decide most, until all is decided."""

from __future__ import annotations

from axiom_protocol.manifest import Criterion, Finding
from axiom_server.publish.deploy import select_versions
from axiom_server.store import seed_budgets
from axiom_server.store.database import Connection
from tests.support.cluster import transaction
from tests.support.server_project import Host, ServerProject


def give(project: ServerProject, seeds: int, *names: str) -> None:
    async def work(connection: Connection) -> None:
        chosen = await select_versions(connection, names or ["short_walk"])
        await seed_budgets.give(connection, [v.version_id for v in chosen], seeds)

    transaction(project.conninfo, work)


def spend(project: ServerProject, host: Host, rounds: int = 30, **result: float) -> list[int]:
    """Let the server issue and the host compute, until nothing comes: the sizes of the batches."""
    sizes = []
    for _ in range(rounds):
        project.round()
        if not (grants := host.sync().grants):
            break
        project.later(60)
        host.sync([host.success(g, **result) for g in grants], cpu=0)
        sizes.append(len(grants))
    return sizes


def budget(project: ServerProject) -> seed_budgets.BudgetRow:
    return transaction(project.conninfo, seed_budgets.listing)[-1]


def test_a_budget_closes_when_all_is_decided_and_reports_saved_seeds(
    project: ServerProject,
) -> None:
    host = project.host(cores=2000)
    give(project, 5000)
    sizes = spend(project, host)
    found = budget(project)
    assert (found.state, found.reason) == ("closed", "every finding is decided")
    assert found.issued == sum(sizes) < 1000
    assert sizes[0] == 10, "first a few, to see what there is"
    log = project.review()
    assert log.findings[0].verdict == "confirmed"
    assert log.seeds == [
        f"short_walk: {found.issued:,} of 5,000 seeds issued in {len(sizes)} batches; "
        f"every finding is decided; {5000 - found.issued:,} saved"
    ]


def test_a_false_claim_needs_fewer_seeds(project: ServerProject) -> None:
    host = project.host(cores=2000)
    give(project, 5000)
    true = sum(spend(project, host))
    project.publish(version="1.1.0")
    give(project, 5000)
    false = sum(spend(project, host, exponent=1.5))
    assert budget(project).reason == "every finding is decided"
    assert false < true


def test_a_budget_stops_when_the_rest_would_decide_nothing(project: ServerProject) -> None:
    host = project.host(cores=2000)
    give(project, 12)
    assert sum(spend(project, host)) <= 12
    found = budget(project)
    assert found.state == "closed"
    assert "decide nothing more" in found.reason or found.reason == "the budget is spent"


def test_seeds_go_to_the_parameters_that_decide_most(project: ServerProject) -> None:
    """Two findings are read from one parameter set, and one from another."""
    findings = [
        Finding(name=n, claim=n, field="exponent", criterion=Criterion(above=a), where=w)
        for n, a, w in (
            ("one", 0.1, {"walks": 20}), ("two", 0.2, {}), ("three", 0.3, {}),
        )
    ]  # fmt: skip
    project.publish(version="1.1.0", findings=findings)
    host = project.host(cores=2000)
    give(project, 10)
    (first,) = spend(project, host, rounds=1)
    assert first == 10
    (parameters,) = project.rows(
        "SELECT DISTINCT p.parameters FROM workunits JOIN parameter_sets p USING (parameters_id)"
    )
    assert parameters == ({},), "ten seeds of the defaults serve two findings"


def test_nothing_is_issued_while_a_batch_is_out(project: ServerProject) -> None:
    give(project, 100)
    project.round()
    assert budget(project).issued == 10
    project.round()
    assert budget(project).issued == 10
