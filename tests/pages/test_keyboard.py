"""The pages by keyboard alone, and without JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.pages.browsing import CHROMIUM, NPM, Walker, chromium, walker
from tests.support.filled_project import (
    FOUNDER,
    NAMES,
    FilledProject,
    add_hosts,
    add_teams,
    give_keys,
    open_project,
    publish_library,
    set_machines,
)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
    pytest.mark.skipif(not NPM, reason="`make pages-check` runs it"),
]
PUBLIC = ("/", "/experiments", "/experiments/rank_dynamics", "/leaders", "/users/1", "/hosts/1",
          "/teams", "/teams/1", "/studies", "/sessions", "/status", "/account/sign-in")  # fmt: skip
#: Elements that a person can operate and see, each with a number to know it by.
OPERABLE = """() => {
  const found = [...document.querySelectorAll(
    "a[href], button, input, select, textarea, summary, [tabindex='0']")];
  const seen = found.filter(e => e.type !== "hidden" && e.checkVisibility());
  seen.forEach((e, i) => e.setAttribute("data-number", i));
  return seen.map(e => e.outerHTML.slice(0, 120));
}"""
FOCUSED = """() => {
  const e = document.activeElement, s = getComputedStyle(e), box = e.getBoundingClientRect();
  return {number: e.getAttribute("data-number"), outline: s.outlineStyle !== "none" &&
          parseFloat(s.outlineWidth) >= 2, shown: box.right > 0 && box.bottom > 0};
}"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilledProject]:
    made = open_project(tmp_path_factory.mktemp("keys"))
    try:
        give_keys(made, NAMES)
        add_hosts(made)
        publish_library(made)
        add_teams(made)
        set_machines(made)
        yield made
    finally:
        made.server.stop()


@pytest.fixture(scope="module")
def browser(project: FilledProject) -> Iterator[Any]:
    """Started after the project is made: a browser's event loop keeps others from running."""
    with chromium() as made:
        yield made


def press_tab_through(walk: Walker) -> None:
    """Press Tab through the whole page: all that can be operated is reached, and seen to be."""
    there = walk.page.evaluate(OPERABLE)
    reached = set[int]()
    for _ in range(2 * len(there)):  # fields of a time have several stops
        walk.page.keyboard.press("Tab")
        focused = walk.page.evaluate(FOCUSED)
        if focused["number"] is None:
            break
        number = int(focused["number"])
        reached.add(number)
        if not (focused["outline"] and focused["shown"]):
            walk.note(f"its focus cannot be seen: {there[number]}")
    for number in sorted(set(range(len(there))) - reached):
        walk.note(f"not reached by Tab: {there[number]}")


def test_everything_is_reached_by_tab_and_shows_its_focus(
    browser: Any, project: FilledProject
) -> None:
    with walker(browser, project.server.url) as walk:
        for path in PUBLIC:
            walk.page.goto(f"{project.server.url}{path}")
            press_tab_through(walk)
        sign_in_by_keys(walk, "/account/sign-in", project.account_keys[FOUNDER])
        sign_in_by_keys(walk, "/staff/sign-in", project.staff_key)
        for path in ("/account", "/account/machines", "/account/hosts/1", "/staff",
                     "/staff/publish"):  # fmt: skip
            walk.page.goto(f"{project.server.url}{path}")
            press_tab_through(walk)
    assert not walk.problems, "\n".join(walk.problems)


def sign_in_by_keys(walk: Walker, path: str, key: str) -> None:
    """Without a mouse: Tab to the field, type, Enter."""
    page = walk.page
    page.goto(f"{walk.url}{path}")
    while page.evaluate("document.activeElement.id") != "key":
        page.keyboard.press("Tab")
    page.keyboard.type(key)
    with page.expect_navigation():
        page.keyboard.press("Enter")
    if page.url.endswith("sign-in"):
        walk.note("signing in by the keyboard failed")


def test_a_form_is_sent_and_a_script_unfolded_by_keys(browser: Any, project: FilledProject) -> None:
    with walker(browser, project.server.url) as walk:
        page = walk.page
        sign_in_by_keys(walk, "/account/sign-in", project.account_keys[FOUNDER])
        page.goto(f"{walk.url}/account/machines")
        page.locator('[name="host"][value="7"]').focus()
        page.keyboard.press("Space")
        page.get_by_role("button", name="Pause").focus()
        with page.expect_navigation():
            page.keyboard.press("Enter")
        found = project.data.value("SELECT account_settings FROM hosts WHERE host_id = 7")
        assert found["paused"] is True
        page.goto(f"{walk.url}/experiments/rank_dynamics")
        page.locator("summary").last.focus()
        page.keyboard.press("Enter")
        assert page.locator("details pre").is_visible()


def test_all_of_it_works_without_javascript(browser: Any, project: FilledProject) -> None:
    with walker(browser, project.server.url, java_script_enabled=False) as walk:
        page = walk.page
        for path in PUBLIC:
            assert page.goto(f"{walk.url}{path}").status == 200
            assert page.locator("h1").count() == 1
        page.fill("#key", project.account_keys[FOUNDER])
        page.get_by_role("button", name="Sign in").click()
        page.get_by_label("Share of cores, %").fill("30")
        page.get_by_role("button", name="Limit all").click()
        assert "30 % of cores" in page.inner_text("table")
        query = "SELECT count(*) FROM hosts WHERE account_settings->>'cpu_share' = '0.3'"
        assert project.data.value(query) == page.locator("tbody tr").count()
        page.goto(f"{walk.url}/staff/sign-in")
        page.fill("#key", project.staff_key)
        page.get_by_role("button", name="Sign in").click()
        assert page.inner_text("h1") == "Staff"
