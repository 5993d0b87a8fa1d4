"""Every page and every form in chromium, as visitor, volunteer, founder of a team and staff.

On a project with the whole library at twenty seeds, and on one without anything. `make pages-check`
runs it, with axe-core and html-validate; it takes some minutes.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Match, Route

from axiom_server.config import Config
from axiom_server.maintenance.rounds import Maintenance
from axiom_server.store.database import make_pool
from axiom_server.sync.batcher import SyncBatcher
from axiom_server.trust.repository import Repository
from axiom_server.web.api import Api, application
from axiom_server.web.metrics import Metrics
from tests.pages.browsing import CHROMIUM, NPM, Walker, chromium, walker
from tests.support.filled_project import FOUNDER, FilledProject, filled, open_project
from tests.support.programs import FIXTURES

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
    pytest.mark.skipif(not NPM, reason="`make pages-check` runs it"),
]
PAGES_MAX = 150  # of one walk by links
#: Of programs, not of people.
PROGRAMS = ("/api/", "/bundles/", "/metrics", "/healthz", "/readyz")
WIDE_MODE = "W" * 60  # as long as a mode's name may be
JAPANESE = "\u65b0\u3057\u3044\u30c1\u30fc\u30e0"  # "new team"
SCRIPT = (FIXTURES / "experiments" / "short_walk.py").read_text()
RULES = {"long-title": "off", "void-style": "off", "no-trailing-whitespace": "off"}
FACTS = {
    "name": "laptop", "os": "linux", "architecture": "x86_64", "cpu_cores": 4,
    "memory_bytes": 1 << 34, "disk_free_bytes": 1 << 34,
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilledProject]:
    made = filled(tmp_path_factory.mktemp("walk"))
    try:
        yield made
    finally:
        made.server.stop()


@pytest.fixture(scope="module")
def browser(project: FilledProject) -> Iterator[Any]:
    """Started after the project is made: a browser's event loop keeps others from running."""
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def walked(browser: Any, project: FilledProject) -> dict[str, Walker]:
    """By role, who has walked through all that the role can reach."""
    walks = {
        "visitor": as_visitor, "volunteer": as_volunteer, "new volunteer": as_new_volunteer,
        "founder": as_founder, "staff": as_staff,
    }  # fmt: skip
    done = {}
    for role, walk in walks.items():
        with walker(browser, project.server.url) as made:
            walk(made, project)
        done[role] = made
    return done


def as_visitor(walk: Walker, project: FilledProject) -> None:
    """All that links lead to, and what is refused."""
    walk.follow_links("/", PAGES_MAX)
    for path in ("/nothing", "/users/99", "/hosts/99", "/teams/99", "/sessions/99",
                 "/experiments/nothing", "/leaders?page=0", "/leaders/nothing",
                 "/leaders/nothing/teams", "/teams?page=0", "/studies/nothing",
                 "/studies/lazy_rich/nothing.csv", "/sessions/1/nothing.csv"):  # fmt: skip
        walk.open(path, 404)
    walk.open("/teams?order=total&page=2")
    for path in ("/account", "/account/machines", "/account/hosts/1", "/staff", "/staff/publish"):
        walk.open(path, 401)


def sign_in(walk: Walker, project: FilledProject, name: str) -> None:
    walk.open("/account/sign-in")
    walk.send("/account/sign-in", "Sign in", 403, key="not a key")
    walk.open("/account/sign-in")
    walk.send("/account/sign-in", "Sign in", key=project.account_keys[name])


def as_volunteer(walk: Walker, project: FilledProject) -> None:
    """Name, team and key of an account with one host."""
    sign_in(walk, project, "Grace")
    walk.follow_links("/account", 12)
    steps: list[tuple[str, str, int, dict[str, Any]]] = [
        ("name", "Rename me", 400, {"name": "Gr\N{CYRILLIC SMALL LETTER A}ce"}),
        ("name", "Rename me", 409, {"name": FOUNDER}),
        ("name", "Rename me", 200, {"name": "Grace Hopper"}),
        ("shown", "Hide me", 200, {}),
        ("shown", "Show me", 200, {}),
        ("team-join", "Join the team", 409, {"team": "99"}),
        ("team-join", "Join the team", 200, {"team": "1"}),
        ("team-leave", "Leave the team", 200, {}),
        ("merge", "Merge them", 400, {"old": "1", "new": "2"}),
        ("key", "Replace the key", 200, {}),
    ]
    act(walk, steps)


def act(walk: Walker, steps: list[tuple[str, str, int, dict[str, Any]]]) -> None:
    """Send forms of the account's page: action, button, expected status, fields."""
    for action, button, status, fields in steps:
        walk.open("/account")
        walk.send(f"/account/{action}", button, status, **fields)


def as_new_volunteer(walk: Walker, project: FilledProject) -> None:
    """Joins with a host, opens its one-time link, and deletes the account."""
    joined = httpx.post(f"{project.server.url}/api/v1/hosts", json={"host": FACTS, "user": "Joan"})
    headers = {"Authorization": f"Bearer {joined.raise_for_status().json()['token']}"}
    made = httpx.post(f"{project.server.url}/api/v1/account-links", headers=headers)
    link = made.raise_for_status().json()["path"]
    walk.open(link)
    walk.press(walk.page.get_by_role("button", name="Sign in"))
    walk.open(link)
    walk.press(walk.page.get_by_role("button", name="Sign in"), 403)
    act(walk, [("delete", "Delete my account", 400, {"sure": "no"}),
               ("delete", "Delete my account", 200, {"sure": "delete"})])  # fmt: skip
    walk.open("/account", 401)


def as_founder(walk: Walker, project: FilledProject) -> None:
    """Many machines, their limits and groups; the team; two hosts that are one."""
    sign_in(walk, project, FOUNDER)
    walk.follow_links("/account/machines", 12)
    for path, status in (("1", 200), ("2", 200), ("10", 200), ("13", 404), ("99", 404)):
        walk.open(f"/account/hosts/{path}", status)
    limits = {"share": "50", "cores": "4", "gpus": "1", "from": "22:00", "until": "06:00"}
    steps: list[tuple[str, int, dict[str, Any]]] = [
        ("Limit the chosen", 400, {"share": "200"}),
        ("Limit the chosen", 200, {"host": ["1", "2"], **limits, "battery": ["no"]}),
        ("Limit all", 200, {"share": "50"}),
        ("Pause", 200, {"host": ["1"]}),
        ("Drain", 200, {"host": ["2"]}),
        ("Resume", 200, {"host": ["1", "2"]}),
        ("Add the chosen to the group", 200, {"host": ["6"], "group": "attic"}),
        ("Limit the group", 200, {"group": "attic", "cores": "2"}),
        ("Save the mode with these limits", 400, {"share": "20"}),
        ("Save the mode with these limits", 200, {"mode": "night", **limits, "battery": ["no"]}),
        ("Save the mode with these limits", 200, {"mode": WIDE_MODE, "share": "20"}),
        ("Switch to the mode (empty: none)", 400, {"mode": "day"}),
        ("Switch to the mode (empty: none)", 200, {"mode": "night"}),
        ("Delete the mode", 200, {"mode": WIDE_MODE}),
    ]
    for button, status, fields in steps:
        walk.open("/account/machines")
        walk.send("/account/machines", button, status, **fields)
    act(walk, [("team-found", "Found a team", 409, {"name": "the difference engines"}),
               ("team-name", "Rename my team", 200, {"name": "The Analytical Engines"}),
               ("team-leave", "Leave the team", 200, {}),
               ("team-found", "Found a team", 200, {"name": JAPANESE}),
               ("merge", "Merge them", 200, {"old": "10", "new": "11"}),
               ("sign-out", "Sign out here", 401, {})])  # fmt: skip
    sign_in(walk, project, FOUNDER)
    act(walk, [("sign-out-everywhere", "Sign out everywhere", 401, {})])


def as_staff(walk: Walker, project: FilledProject) -> None:
    """The queue, quarantine, deployment with its dry run, the audit log."""
    walk.open("/staff/sign-in")
    walk.send("/staff/sign-in", "Sign in", 403, key="not a key")
    walk.open("/staff/sign-in")
    walk.send("/staff/sign-in", "Sign in", key=project.staff_key)
    steps: list[tuple[str, str, int, dict[str, Any]]] = [
        ("host", "Quarantine", 404, {"host": "99"}),
        ("host", "Quarantine", 200, {"host": "5", "reason": "clock " * 30}),
        ("host", "Release", 200, {"host": "5"}),
        ("deploy", "Preview", 400, {"experiments": "nothing"}),
        ("deploy", "Preview", 200, {"experiments": "grokking", "count": "7"}),
    ]
    for action, button, status, fields in steps:
        walk.open("/staff")
        walk.send(f"/staff/{action}", button, status, **fields)
    walk.send("/staff/deploy", "Deploy")
    publish(walk)
    walk.open("/staff")
    walk.send("/staff/sign-out", "Sign out")


def publish(walk: Walker) -> None:
    """A script that is no experiment is refused; a new one is tried, then confirmed."""
    walk.open("/staff/publish")
    walk.send("/staff/publish", "Dry run", 400, script="print(1)")
    walk.open("/staff/publish")
    script = SCRIPT.replace('name = "short_walk"', 'name = "published_walk"')
    walk.send("/staff/publish", "Dry run", script=script)
    walk.send("/staff/publish", "Sign and publish")
    walk.open("/experiments/published_walk")


ROLES = ("visitor", "volunteer", "new volunteer", "founder", "staff")


@pytest.mark.parametrize("role", ROLES)
def test_nothing_is_wrong_with_a_page(walked: dict[str, Walker], role: str) -> None:
    assert len(walked[role].markup) > 3
    assert not walked[role].problems, "\n".join(walked[role].problems)


def test_an_empty_project_has_every_page(browser: Any, tmp_path: Path) -> None:
    project = open_project(tmp_path)
    try:
        with walker(browser, project.server.url) as walk:
            opened = walk.follow_links("/", PAGES_MAX)
            walk.open("/staff/sign-in")
            walk.send("/staff/sign-in", "Sign in", key=project.staff_key)
            key = project.server.json("users", "add", "Grace")["account_key"]
            walk.open("/account/sign-in")
            walk.send("/account/sign-in", "Sign in", key=key)
            walk.open("/account")
        assert {"/", "/experiments", "/leaders", "/teams", "/sessions", "/status"} <= set(opened)
        assert not walk.problems, "\n".join(walk.problems)
    finally:
        project.server.stop()


def test_every_route_is_walked(walked: dict[str, Walker], tmp_path: Path) -> None:
    asked = {request for walk in walked.values() for request in walk.requests}
    found = {(routed(route_list(tmp_path), *request)) for request in asked}
    wanted = {
        (route.path, method)
        for route in route_list(tmp_path)
        for method in (route.methods or set()) - {"HEAD"}
        if not route.path.startswith(PROGRAMS)
    }
    assert len(wanted) > 30
    missing = sorted(wanted - found)
    assert missing == []


def route_list(folder: Path) -> list[Route]:
    """Of the real application, which is never started."""
    config, pool = Config(), make_pool("")
    api = Api(
        config=config, bundles=folder, pool=pool, batcher=SyncBatcher(pool=pool, config=config),
        metrics=Metrics(),
    )  # fmt: skip
    made = application(api, Maintenance(pool=pool, config=config, bundles=Repository(folder)))
    return [route for route in made.routes if isinstance(route, Route)]


def routed(routes: list[Route], method: str, path: str) -> tuple[str, str]:
    """The route that answers a request."""
    scope = {"type": "http", "method": method, "path": path, "headers": []}
    for route in routes:
        if route.matches(scope)[0] is Match.FULL:
            return route.path, method
    return path, method


def test_every_button_is_pressed(walked: dict[str, Walker]) -> None:
    there = {plain(button) for walk in walked.values() for button in walk.buttons}
    pressed = {plain(button) for walk in walked.values() for button in walk.pressed}
    assert len(there) > 20
    assert there == pressed


def plain(button: str) -> str:
    """Without the secret of a one-time link."""
    return "link" if button.startswith("/account/link/") else button


def test_the_markup_is_valid(walked: dict[str, Walker], tmp_path: Path) -> None:
    config = {"root": True, "extends": ["html-validate:standard"], "rules": RULES}
    (tmp_path / ".htmlvalidate.json").write_text(json.dumps(config))
    pages = [(f"{role}: {done}", text) for role, walk in walked.items()
             for done, text in walk.markup]  # fmt: skip
    for i, (done, text) in enumerate(pages):
        (tmp_path / f"{i}.html").write_text(text)
        (tmp_path / f"{i}.txt").write_text(done)
    program = Path(NPM).resolve() / "html-validate" / "bin" / "html-validate.mjs"
    found = subprocess.run(
        ["node", str(program), "--formatter", "text", "*.html"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert len(pages) > 100
    assert found.returncode == 0, found.stdout + found.stderr
