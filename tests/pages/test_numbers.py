"""What pages show, read in chromium, against what the database holds, asked in SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.pages.browsing import CHROMIUM, NPM, Walker, chromium, walker
from tests.support.filled_project import FOUNDER, FilledProject, filled

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
    pytest.mark.skipif(not NPM, reason="`make pages-check` runs it"),
]
#: The tables of a page as texts of cells, without their headings.
CELLS = """() => [...document.querySelectorAll("main table")].map(t =>
  [...t.tBodies[0].rows].map(r => [...r.cells].map(c => c.innerText.trim())))"""
TOTALS = """() => Object.fromEntries([...document.querySelectorAll("dl.totals > div")].map(
  d => [d.querySelector("dt").innerText, d.querySelector("dd").innerText]))"""

#: Page, which of its tables, which of its columns, and the query that gives the same rows.
TABLES = (
    ("/leaders", 0, (1, 3), "SELECT name, credit_total FROM users"),
    ("/leaders/grokking", 0, (1, 3, 4), """
        SELECT u.name, count(*), sum(c.amount) FROM credit c JOIN users u USING (user_id)
        JOIN experiments e USING (experiment_id) WHERE e.name = 'grokking'
        GROUP BY 1"""),
    ("/leaders/grokking/teams", 0, (1, 2, 5, 6), """
        SELECT t.name, (SELECT count(*) FROM users WHERE team_id = t.team_id), count(*),
               sum(c.amount) FROM teams t
        JOIN users u USING (team_id) JOIN credit c USING (user_id)
        JOIN experiments e USING (experiment_id) WHERE e.name = 'grokking'
        GROUP BY t.team_id"""),
    ("/users/1", 0, (0, 1, 2, 4), """
        SELECT host_id, cpu_cores, gpus, credit_total FROM hosts WHERE user_id = 1"""),
    ("/users/1", 1, (0, 1, 2), """
        SELECT e.name, count(*), sum(c.amount) FROM credit c JOIN experiments e
        USING (experiment_id) WHERE c.user_id = 1 GROUP BY 1"""),
    ("/users/1", 2, (0, 2, 3), """
        SELECT 'Session ' || session_id, count(*), sum(amount) FROM credit WHERE user_id = 1
        GROUP BY session_id"""),
    ("/hosts/3", 0, (0, 2, 3), """
        SELECT 'Session ' || session_id, count(*), sum(amount) FROM credit WHERE host_id = 3
        GROUP BY session_id"""),
    ("/teams", 0, (1, 2, 3), """
        SELECT t.name, count(*), sum(u.credit_total) FROM teams t JOIN users u
        USING (team_id) GROUP BY 1"""),
    ("/teams/1", 0, (0, 1, 2), """
        SELECT e.name, count(*), sum(c.amount) FROM credit c JOIN users u USING (user_id)
        JOIN experiments e USING (experiment_id) WHERE u.team_id = 1 GROUP BY 1"""),
    ("/teams/1", 1, (0, 1), "SELECT name, credit_total FROM users WHERE team_id = 1"),
    ("/sessions", 0, (0, 2, 3), "SELECT 'Session ' || session_id, results, credit FROM sessions"),
    ("/status", 0, (0, 1, 2, 3), """
        SELECT e.name, (SELECT count(*) FROM queue q JOIN versions v USING (version_id)
                        WHERE v.experiment_id = e.experiment_id AND q.host_id IS NULL),
               (SELECT count(*) FROM queue q JOIN versions v USING (version_id)
                WHERE v.experiment_id = e.experiment_id AND q.host_id IS NOT NULL),
               (SELECT count(*) FROM tasks t WHERE t.experiment_id = e.experiment_id
                AND t.state = 'leased') FROM experiments e"""),
)  # fmt: skip
MACHINES = ("/account/machines", 0, (1, 4), """
    SELECT name || ' (host ' || host_id || ')', cpu_cores FROM hosts
    WHERE user_id = 1""")  # fmt: skip
OUTCOMES = (
    "/account/hosts/3",
    0,
    (0, 1),
    """
    SELECT outcome, count(*) FROM tasks WHERE host_id = 3 AND outcome IS NOT NULL GROUP BY 1""",
)
AUDIT = ("/staff", 1, (1, 2), "SELECT who, action FROM audit_log")
Compared = tuple[str, int, tuple[int, ...], str]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilledProject]:
    made = filled(tmp_path_factory.mktemp("numbers"))
    made.data.deploy("grokking", count=5)
    made.data.execute("DELETE FROM snapshots")
    try:
        yield made
    finally:
        made.server.stop()


@pytest.fixture(scope="module")
def visitor(project: FilledProject) -> Iterator[Walker]:
    with chromium() as browser, walker(browser, project.server.url) as made:
        yield made


def written(value: Any) -> str:
    """As pages write a value."""
    return value if isinstance(value, str) else f"{value:,.6f}".rstrip("0").rstrip(".")


def compare(walk: Walker, project: FilledProject, compared: Compared) -> None:
    path, table, columns, query = compared
    walk.page.goto(f"{walk.url}{path}")
    rows = walk.page.evaluate(CELLS)[table]
    shown = [tuple(" ".join(row[c].split()) for c in columns) for row in rows]
    stored = [tuple(written(value) for value in row) for row in project.data.rows(query)]
    assert stored
    assert sorted(shown) == sorted(stored)


@pytest.mark.parametrize("compared", TABLES, ids=[f"{t[0]} {t[1]}" for t in TABLES])
def test_a_table_has_the_databases_rows(
    visitor: Walker, project: FilledProject, compared: Compared
) -> None:
    compare(visitor, project, compared)


def test_totals_are_the_databases(visitor: Walker, project: FilledProject) -> None:
    value = project.data.value
    credit = value("SELECT sum(credit) FROM sessions")
    expected: dict[str, dict[str, Callable[[], Any]]] = {
        "/": {
            "volunteers": lambda: value("SELECT count(*) FROM users"),
            "cores online": lambda: value("SELECT sum(cpu_cores) FROM hosts"),
            "GPUs online": lambda: value("SELECT sum(gpus) FROM hosts"),
            "results credited": lambda: value("SELECT sum(results) FROM sessions"),
            "credit": lambda: credit,
        },
        "/status": {
            "workunits waiting": lambda: value("SELECT count(*) FROM queue"),
            "hosts": lambda: value("SELECT count(*) FROM hosts"),
            "credit": lambda: credit,
        },
        "/users/1": {
            "credit": lambda: value("SELECT sum(amount) FROM credit WHERE user_id = 1"),
            "hosts": lambda: value("SELECT count(*) FROM hosts WHERE user_id = 1"),
            "place": lambda: value("SELECT 1 + count(*) FROM users WHERE credit_total > ("
                                   "SELECT credit_total FROM users WHERE user_id = 1)"),
        },
        "/studies/lazy_rich": {
            "parameter sets": lambda: value("SELECT count(*) FROM study_sets"),
            "results": lambda: value("SELECT count(DISTINCT (position, seed)) FROM results "
                                     "JOIN workunits USING (workunit_id) "
                                     "JOIN study_sets USING (parameters_id) "
                                     "JOIN studies USING (study_id) "
                                     "WHERE seed >= first_seed AND valid = 1"),
        },
        "/teams/1": {
            "credit": lambda: value("SELECT sum(credit_total) FROM users WHERE team_id = 1"),
            "members": lambda: value("SELECT count(*) FROM users WHERE team_id = 1"),
        },
    }  # fmt: skip
    for path, totals in expected.items():
        visitor.page.goto(f"{visitor.url}{path}")
        shown = visitor.page.evaluate(TOTALS)
        assert {k: shown[k] for k in totals} == {k: written(v()) for k, v in totals.items()}, path


def test_each_finding_shows_its_stored_verdict(visitor: Walker, project: FilledProject) -> None:
    visitor.page.goto(f"{visitor.url}/experiments/grokking")
    stored = project.data.rows(
        """SELECT f.finding, f.verdict->>'verdict', (f.verdict->>'seeds')::int,
                  (f.verdict->>'estimate')::float8 FROM finding_values f
           JOIN versions USING (version_id) JOIN experiments USING (experiment_id)
           WHERE name = 'grokking'"""
    )
    assert len(stored) == 7
    for finding, verdict, seeds, estimate in stored:
        text = visitor.page.inner_text(f"article#{finding}")
        assert text.startswith(f"{verdict}:")
        assert f"{seeds} seeds on" in text
        assert f"\n{estimate:.3g}, from" in text


def test_a_volunteers_machines_and_staffs_log_are_the_databases(
    visitor: Walker, project: FilledProject
) -> None:
    page = visitor.page
    for path, key in (("/account", project.account_keys[FOUNDER]), ("/staff", project.staff_key)):
        page.goto(f"{visitor.url}{path}/sign-in")
        page.fill("#key", key)
        page.get_by_role("button", name="Sign in").click()
    compare(visitor, project, MACHINES)
    compare(visitor, project, OUTCOMES)
    compare(visitor, project, AUDIT)
    page.goto(f"{visitor.url}/staff")
    held = project.data.rows("SELECT host_id, state_reason FROM hosts WHERE state = 'quarantined'")
    text = page.inner_text("main")
    assert all(f"Host {host_id}, " in text and reason in text for host_id, reason in held)
    assert held
