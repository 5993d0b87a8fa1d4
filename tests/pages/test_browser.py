"""Every public page in Debian's chromium: no error, no other host, no sideways scrolling.

With AXIOM_NPM, a folder of node modules (`make pages-check` makes one), also axe-core's serious
violations and html-validate's errors.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.programs import FIXTURES, Server, server

CHROMIUM = shutil.which("chromium")
NPM = os.environ.get("AXIOM_NPM", "")
PAGES_MAX = 60  # visited; each is visited at every width
WIDTHS = {360: "dark", 1280: "light"}
#: Links of the document, of this server and without a fragment; files are left to other tests.
LINKS = """() => [...document.querySelectorAll("a[href]")].map(a => a.href.split("#")[0])
    .filter(u => u.startsWith(location.origin) && !/\\.\\w+$/.test(u))"""
AXE = """async () => (await axe.run()).violations
    .filter(v => ["serious", "critical"].includes(v.impact))
    .map(v => v.id + ": " + v.nodes.map(n => n.html).slice(0, 3).join(" "))"""

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = server(tmp_path_factory.mktemp("browser"))
    made.run("import", str(FIXTURES / "session_2026-03-02_0300.json"))
    made.run("review")
    made.run("publish", str(FIXTURES / "experiments" / "short_walk.py"), "--budget", "1")
    made.serve()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield launched
        launched.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_a_visitor_can_reach(browser: Any, project: Server, width: int) -> None:
    assert project.url is not None
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=WIDTHS[width]
    )
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda m: problems.append(f"{page.url}: {m.text}")
            if m.type in ("error", "warning") else None)  # fmt: skip
    page.on("pageerror", lambda e: problems.append(f"{page.url}: {e}"))
    page.on("request", lambda r: problems.append(f"{page.url}: asks {r.url}")
            if not r.url.startswith(project.url) else None)  # fmt: skip
    waiting, seen = [f"{project.url}/"], set[str]()
    while waiting and len(seen) < PAGES_MAX:
        url = waiting.pop(0)
        if url in seen:
            continue
        seen.add(url)
        answered = page.goto(url)
        assert answered.status == 200, url
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            problems.append(f"{url}: {wide} px wide")
        if NPM:
            page.evaluate((Path(NPM) / "axe-core" / "axe.min.js").read_text())
            problems += [f"{url}: {line}" for line in page.evaluate(AXE)]
        waiting += page.evaluate(LINKS)
    context.close()
    assert len(seen) > 30
    assert not problems, "\n".join(problems)


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


@pytest.mark.skipif(not NPM, reason="html-validate is installed by `make pages-check`")
def test_the_markup_is_valid(project: Server, tmp_path: Path) -> None:
    paths = ("/", "/experiments", "/experiments/short_walk", "/leaders", "/users/1", "/hosts/9",
             "/teams", "/teams/1", "/sessions", "/sessions/1", "/status")  # fmt: skip
    rules = {"long-title": "off", "void-style": "off", "no-trailing-whitespace": "off"}
    config = {"root": True, "extends": ["html-validate:standard"], "rules": rules}
    (tmp_path / ".htmlvalidate.json").write_text(json.dumps(config))
    for i, path in enumerate(paths):
        (tmp_path / f"{i}.html").write_text(httpx.get(f"{project.url}{path}").text)
    program = Path(NPM).resolve() / "html-validate" / "bin" / "html-validate.mjs"
    found = subprocess.run(
        ["node", str(program), *(f"{i}.html" for i in range(len(paths)))],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
