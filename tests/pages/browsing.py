"""A browser that looks at each page it opens, at two widths and in light and dark.

What is wrong with a page is noted and not raised, so that one walk finds everything.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CHROMIUM = shutil.which("chromium")
#: Folder of node modules with axe-core and html-validate; `make pages-check` makes one.
NPM = os.environ.get("AXIOM_NPM", "")
WIDTHS, THEMES = (1280, 360), ("light", "dark")
#: Each width in each theme; one of both changes at a time, since a change draws the page again.
LOOKS = ((1280, "light"), (360, "light"), (360, "dark"), (1280, "dark"))
#: Where more than the width is looked at: every width and every theme, not each with each.
CLOSE_LOOKS = ((1280, "light"), (360, "dark"))
SAME_KIND_MAX = 16  # pages of one kind, such as /hosts/N, that one walk opens; and files
ANSWER_MILLISECONDS = 180_000  # of a button: a script is run twice before the answer

#: Addresses of this server that the document names, without fragments; a link with
#: rel=nofollow is for signed-in owners, and refuses others.
ADDRESSES = """() => {
  const named = [...document.querySelectorAll("[href]:not([rel~=nofollow])")].map(e => e.href)
    .concat([...document.querySelectorAll("[src]")].map(e => e.src))
    .concat([...document.querySelectorAll("[srcset]")].map(e => new URL(e.srcset, location).href));
  return named.filter(u => u.startsWith(location.origin)).map(u => u.split("#")[0]);
}"""
#: Of a button, where it sends its form to, and its text.
BUTTON = """b => new URL(b.getAttribute("formaction") || b.form.action, location).pathname
    + " " + b.innerText.trim()"""
BUTTONS = f"() => [...document.querySelectorAll('main form button')].map({BUTTON})"
AXE = """async () => (await axe.run()).violations
    .filter(v => ["serious", "critical"].includes(v.impact))
    .map(v => v.id + ": " + v.nodes.map(n => n.html).slice(0, 3).join(" "))"""
#: What is cut off by its own box, where nobody can scroll it into view.
CLIPPED = """() => [...document.querySelectorAll("main *")].filter(e => {
    const s = getComputedStyle(e);
    return s.overflowX === "hidden" && e.scrollWidth > e.clientWidth + 1;
  }).map(e => e.outerHTML.slice(0, 100))"""
#: An image between two of its sources, after the theme has changed, is complete and has no width.
LOADED = """() => [...document.images].every(i => {
    i.loading = "eager";
    return i.complete && i.naturalWidth;
  })"""
#: After the theme has changed, images choose another source with the next frame.
TWO_FRAMES = "() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"
LOADED_MILLISECONDS = 20_000  # after which an image counts as broken
BROKEN_IMAGES = """() => [...document.images].filter(i => !i.naturalWidth).map(i => i.currentSrc)"""


@cache
def axe_core() -> str:
    """The script of axe-core."""
    return (Path(NPM) / "axe-core" / "axe.min.js").read_text()


@dataclass(kw_only=True)
class Walker:
    """One visitor.

    problems   what is wrong, each with its page
    requests   method and path of everything that was asked for
    markup     what was done to see a page, and its source
    buttons    of forms: "ACTION TEXT"; ``pressed``: of them, those that were
    """

    page: Any
    url: str
    problems: list[str] = field(default_factory=list)
    requests: set[tuple[str, str]] = field(default_factory=set)
    markup: list[tuple[str, str]] = field(default_factory=list)
    buttons: set[str] = field(default_factory=set)
    pressed: set[str] = field(default_factory=set)
    _expected: int = 200
    _theme: str = ""  # of the page now
    _width: int = 0

    def listen(self) -> None:
        """Note errors of the console and requests, from now on."""
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda e: self.note(f"error in a script: {e}"))
        self.page.on("request", self._request)

    def note(self, problem: str) -> None:
        """Add a problem of the page that is open."""
        self.problems.append(f"{self.page.url.removeprefix(self.url)}: {problem}")

    def _console(self, message: Any) -> None:
        refused = self._expected >= 400 and "Failed to load resource" in message.text
        if message.type in ("error", "warning") and not refused:
            self.note(message.text)

    def _request(self, request: Any) -> None:
        if not request.url.startswith(self.url):
            self.note(f"asks {request.url}")
        self.requests.add((request.method, urlsplit(request.url).path))

    def open(self, path: str, status: int = 200) -> None:
        """Open a page and look at it."""
        self._expected = status
        self._answered(self.page.goto(f"{self.url}{path}"), f"open {path}", status)

    def send(self, action: str, button: str, status: int = 200, **fields: Any) -> None:
        """Fill in the form of ``action`` on the open page, press a button, look at the answer.

        fields  by name; a list ticks the boxes of these values
        """
        form = self.page.locator(f'form:has(button[formaction="{action}"]), '
                                 f'form[action="{action}"]').last  # fmt: skip
        for name, value in fields.items():
            if isinstance(value, list):
                for one in value:
                    form.locator(f'[name="{name}"][value="{one}"]').check()
            else:
                form.locator(f'[name="{name}"]').fill(str(value))
        self.press(form.get_by_role("button", name=button, exact=True), status)

    def press(self, button: Any, status: int = 200) -> None:
        """Press a button that leads to another page, and look at that."""
        told = button.evaluate(BUTTON)
        self.pressed.add(told)
        self._expected = status
        with self.page.expect_navigation(timeout=ANSWER_MILLISECONDS) as navigation:
            button.click()
        self._answered(navigation.value, f"press {told}", status)

    def _answered(self, response: Any, done: str, status: int) -> None:
        if response.status != status:
            self.note(f"{done}: {response.status}, not {status}")
        if "html" in response.headers.get("content-type", ""):
            self.markup.append((done, response.text()))
            self.buttons |= set(self.page.evaluate(BUTTONS))
            self._look()

    def _look(self) -> None:
        if NPM:
            self.page.evaluate(axe_core())
        for width, theme in LOOKS:
            self._look_at(width, theme)

    def _look_at(self, width: int, theme: str) -> None:
        if self._theme != theme:
            self.page.emulate_media(color_scheme=theme)
            self._theme = theme
        if self._width != width:
            self.page.set_viewport_size({"width": width, "height": 800})
            self._width = width
        wide = self.page.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            self.note(f"{wide} px wide at {width}")
        if (width, theme) in CLOSE_LOOKS:
            found = [f"no image: {e}" for e in self._broken_images()]
            found += [f"clipped: {e}" for e in self.page.evaluate(CLIPPED)]
            found += self.page.evaluate(AXE) if NPM else []
            for problem in found:
                self.note(f"{problem} ({width}, {theme})")

    def _broken_images(self) -> list[str]:
        """The images that are not there in the end."""
        from playwright.sync_api import TimeoutError as ImageMissing

        self.page.evaluate(TWO_FRAMES)
        try:
            self.page.wait_for_function(LOADED, timeout=LOADED_MILLISECONDS)
        except ImageMissing:
            return list(self.page.evaluate(BROKEN_IMAGES))
        return []

    def follow_links(self, first: str, most: int) -> list[str]:
        """Open pages by links, from ``first`` on, and ask for each file; the paths opened."""
        waiting, seen, opened = [first], set[str](), list[str]()
        kinds = Counter[str]()
        while waiting and len(opened) < most:
            path = waiting.pop(0).removeprefix(self.url)
            if path in seen:
                continue
            seen.add(path)
            kind = f"{path.split('/')[1]} {path.count('/')}"
            kinds[kind] += 1
            if kinds[kind] > SAME_KIND_MAX:
                continue
            if _is_file(path):
                self._fetch(path)
                continue
            self.open(path)
            opened.append(path)
            waiting += self.page.evaluate(ADDRESSES)
        return opened

    def _fetch(self, path: str) -> None:
        answered = self.page.context.request.get(f"{self.url}{path}")
        self.requests.add(("GET", urlsplit(path).path))
        if answered.status != 200:
            self.note(f"{path}: {answered.status}")


def _is_file(path: str) -> bool:
    """Whether a path ends like ``.csv``; a page of a version ends in numbers."""
    return re.search(r"\.[a-z]\w*$", path) is not None


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's chromium, without a screen."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield launched
        launched.close()


@contextmanager
def walker(browser: Any, url: str, **options: Any) -> Iterator[Walker]:
    """A visitor with cookies of its own. ``options``: of the browser's context."""
    context = browser.new_context(**options)
    made = Walker(page=context.new_page(), url=url)
    made.listen()
    yield made
    context.close()
