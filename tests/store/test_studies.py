"""A study from its declaration to its verdicts: on the real database, through the real sync."""

from __future__ import annotations

import pytest

from axiom_protocol.verdicts.study_design import StudyError, read_study
from axiom_protocol.verdicts.study_verdicts import StudyData, judge_study
from axiom_server.errors import Usage
from axiom_server.publish.deploy import select_versions
from axiom_server.publish.sweeps import deploy_sweep, read_axes
from axiom_server.review import studies
from axiom_server.store.database import Connection
from tests.support.cluster import transaction
from tests.support.server_project import Host, ServerProject

STUDY = """
name = "walks"
experiment = "short_walk"
question = "Where does the exponent cross one half?"
seeds = 40

[axes.walks]
values = [10, 100, 1000]
scale = "log"
[axes.pause_seconds]
values = [0.0, 4.0]

[[findings]]
name = "edge"
claim = "The exponent crosses one half at the same number of walks, whatever the pause."
kind = "boundary"
field = "exponent"
level = 0.5
along = "walks"
over = "pause_seconds"
criterion = { above = -0.1, below = 0.1 }
min_share = 0.8

[[findings]]
name = "falls"
claim = "The exponent falls with the walks."
kind = "trend"
field = "exponent"
along = "walks"
criterion = { above = 0.0 }
min_share = 0.5

[refine]
finding = "edge"
rounds = 1
pilot_seeds = 2
"""


def start(project: ServerProject, text: str = STUDY) -> int:
    async def work(connection: Connection) -> int:
        (version,) = await select_versions(connection, ["short_walk"])
        made = await studies.declare(connection, read_study(text), version)
        return made[1] if made else 0

    return transaction(project.conninfo, work)


def data(project: ServerProject) -> StudyData:
    return transaction(project.conninfo, lambda c: studies.load(c, "walks"))[1]


def compute(host: Host) -> int:
    """Run everything that waits: an exponent that crosses one half between 100 and 1,000 walks."""
    done = 0
    while grants := host.sync().grants:
        host.project.later(60)
        reports = [
            host.success(g, exponent=0.6 - 0.05 * len(str(g.parameters["walks"])) + g.seed * 1e-6)
            for g in grants
        ]
        host.sync(reports, cpu=0)
        done += len(reports)
    return done


def test_pilot_refinement_and_verdicts(project: ServerProject) -> None:
    host = project.host(cores=400)
    assert start(project) == 12, "two pilot seeds of six parameter sets"
    assert [v.verdict for v in judge_study(data(project))] == ["preliminary", "preliminary"]
    assert compute(host) == 12
    project.round()
    middle = [s for s in data(project).sets if s["walks"] not in (10, 100, 1000)]
    assert {(s["walks"], s["pause_seconds"]) for s in middle} == {(32, 0.0), (32, 4.0)}
    assert compute(host) == 4, "the new sets with the pilot's seeds"
    project.round()
    assert compute(host) == 8 * 40
    found = data(project)
    assert (found.out, found.seeds[0], len(found.cells)) == (0, 3, 320)
    edge, falls = judge_study(found)
    assert (edge.verdict, edge.seeds, edge.estimate) == ("confirmed", 40, pytest.approx(0))
    assert falls.verdict in ("rejected", "fails seed by seed")
    project.round()
    assert not host.sync().grants, "a judged study makes no more work"
    made = transaction(project.conninfo, lambda c: studies.extend(c, "walks", 5))
    assert made == compute(host) == 8 * 5
    assert (judge_study(data(project))[0].seeds, data(project).out) == (45, 0)


def test_a_lost_cell_takes_its_seed_out_and_counts_against(project: ServerProject) -> None:
    plain = STUDY[: STUDY.index("[refine]")]
    host = project.host(cores=400)
    assert start(project, plain) == 240
    compute(host)
    project.execute("DELETE FROM results WHERE task_id = (SELECT min(task_id) FROM results)")
    edge, _ = judge_study(data(project))
    assert (edge.seeds, edge.planned, edge.missing) == (39, 40, 1)


def test_a_name_is_declared_once_and_mistakes_are_named(project: ServerProject) -> None:
    assert start(project) == 12
    assert start(project) == 0
    with pytest.raises(StudyError, match="no axis 'wlaks'"):
        start(project, STUDY.replace('along = "walks"', 'along = "wlaks"'))
    with pytest.raises(StudyError, match="must be at least 10"):
        start(project, STUDY.replace("[10, 100", "[1, 100"))


def test_a_sweep_gives_every_set_the_same_new_seeds(project: ServerProject) -> None:
    project.deploy("short_walk", count=3)
    axes = read_axes(["walks=10,20", "pause_seconds=0.0,1.0,2.0"])
    made = transaction(project.conninfo, lambda c: deploy_sweep(c, "short_walk", axes, 5, None))
    assert made == 30
    found = project.rows(
        "SELECT parameters_id, min(seed), max(seed) FROM workunits GROUP BY 1 ORDER BY 1"
    )
    assert [r[1:] for r in found] == [(1, 3)] + [(4, 8)] * 6
    with pytest.raises(Usage, match="has no parameter"):
        transaction(project.conninfo, lambda c: deploy_sweep(c, "short_walk", {"x": [1]}, 5, None))


def test_a_grid_is_not_refined_by_unconfirmed_results(
    project: ServerProject,
) -> None:
    newcomer, other = project.host("ann", cores=400), project.host("ben", cores=400)
    other.sync(cpu=0)
    assert start(project) == 12
    assert compute(newcomer) == 12
    project.round()
    project.round()
    assert project.value("SELECT state FROM studies") == "pilot"
    assert len(data(project).sets) == 6
    assert compute(other) == 12
    project.round()
    assert project.value("SELECT rounds FROM studies") == 1
    assert len(data(project).sets) == 8
