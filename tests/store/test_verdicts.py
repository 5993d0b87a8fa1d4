"""The results and seeds by which a review judges, on the real database with the real sync."""

from __future__ import annotations

from axiom_server.review.judging import judge_all
from tests.support.server_project import ServerProject, transaction


def test_a_batch_is_judged_when_it_is_complete(project: ServerProject) -> None:
    project.deploy("short_walk", count=500)
    host = project.host(cores=500)
    host.sync()
    project.later(60)
    reports = [host.success(grant) for grant in host.held.values()]
    host.sync(reports[:490], cpu=0)
    finding = project.review().findings[0]
    assert (finding.verdict, finding.seeds, finding.out) == ("preliminary", 490, 10)
    host.sync([host.failure(host.held[r.task_id]) for r in reports[490:491]], cpu=0)
    host.sync(reports[491:], cpu=0)
    finding = project.review().findings[0]
    assert (finding.verdict, finding.seeds, finding.missing) == ("confirmed", 499, {"late": 1})
    assert finding.fixed_verdict == "confirmed"
    project.deploy("short_walk", count=30)
    host.sync(cpu=30)
    project.later(60)
    bad = [host.success(grant, exponent=0.9) for grant in host.held.values()]
    host.sync(bad[:10], cpu=0)
    finding = project.review().findings[0]
    assert (finding.verdict, finding.seeds) == ("confirmed", 500), "the late seed came, and counts"
    assert finding.out >= 20


def test_a_newcomers_results_wait_until_another_host_agrees(project: ServerProject) -> None:
    newcomer, other = project.host("ann", cores=40), project.host("ben", cores=40)
    other.sync(cpu=0)
    project.deploy("short_walk", count=40)
    newcomer.sync()
    project.later(60)
    newcomer.succeed_all(cpu=0)
    project.round()
    other.sync()
    assert len(other.held) == 40
    finding = transaction(project.conninfo, lambda c: judge_all(c))[0]
    assert (finding.seeds, finding.pending) == (0, 40)
    assert finding.verdict == "insufficient"
    assert project.value("SELECT count(*) FROM finding_values") == 0, "only a review records"
    project.later(60)
    other.succeed_all(cpu=0)
    project.round()
    finding = project.review().findings[0]
    assert (finding.seeds, finding.pending, finding.hosts) == (40, 0, 1)
    assert project.value("SELECT cardinality(seeds) FROM finding_values LIMIT 1") == 40


def test_a_new_version_is_judged_by_unseen_seeds(project: ServerProject) -> None:
    project.deploy("short_walk", count=7)
    project.publish(version="1.1.0")
    project.deploy("short_walk", count=3)
    found = project.rows(
        "SELECT v.version, min(w.seed), max(w.seed) FROM workunits w "
        "JOIN versions v USING (version_id) GROUP BY 1 ORDER BY 1"
    )
    assert found == [("1.0.0", 1, 7), ("1.1.0", 8, 10)]
