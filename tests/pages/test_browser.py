"""The evening's public pages in Debian's chromium: a short walk, for every run of the tests.

`test_walk` is the whole, with axe-core and html-validate; `make pages-check` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from tests.pages.browsing import CHROMIUM, NPM, chromium, walker
from tests.support.programs import FIXTURES, Server, server

PAGES_MAX = 200 if NPM else 60

pytestmark = [  # playwright is not imported here: every worker that runs tests collects this file
    pytest.mark.skipif(find_spec("playwright") is None, reason="playwright is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def project(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = server(tmp_path_factory.mktemp("browser"))
    made.run("import", str(FIXTURES / "session_2026-03-02_0300.json"))
    made.run("review")
    made.run("publish", str(FIXTURES / "experiments" / "short_walk.py"), "--budget", "1")
    made.serve()
    try:
        yield made
    finally:
        made.stop()


def test_every_page_a_visitor_can_reach(browser: Any, project: Server) -> None:
    with walker(browser, project.url) as walk:
        opened = walk.follow_links("/", PAGES_MAX)
    assert len(opened) > 30
    assert not walk.problems, "\n".join(walk.problems)


def test_a_table_is_sorted_by_a_click_and_by_the_keyboard(browser: Any, project: Server) -> None:
    page = browser.new_page()
    page.goto(f"{project.url}/sessions/1")
    first = "table#users tbody tr:first-child td:first-child"
    assert page.inner_text(first) == "Steve Dodd"
    page.click("table#users th:nth-child(2) button")
    page.focus("table#users th:nth-child(2) button")
    page.keyboard.press("Enter")
    assert page.inner_text(first) == "zombie67 [MM]"
    page.close()


def test_the_skip_link_is_the_first_stop_of_the_keyboard(browser: Any, project: Server) -> None:
    page = browser.new_page()
    page.goto(f"{project.url}/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.close()
