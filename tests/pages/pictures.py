"""Pictures of pages, to be looked at, and the three that docs/site.md shows.

    python -m tests.pages.pictures FOLDER          every kind of page, light and dark, two widths
    python -m tests.pages.pictures --docs          renews docs/images/site_*.png

The front page is of a project whose results are drawn and not computed (``filled_project``); the
others are of the evening of 2 March 2026.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.pages.browsing import THEMES, WIDTHS, chromium
from tests.support.filled_project import FOUNDER, FilledProject, filled
from tests.support.programs import FIXTURES, Server, server

IMAGES = Path(__file__).parents[2] / "docs" / "images"
FILLED = (
    "/", "/experiments", "/experiments/grokking", "/leaders", "/leaders/grokking", "/users/1",
    "/users/2", "/hosts/2", "/teams", "/teams/2", "/sessions", "/sessions/2", "/status",
    "/experiments/rank_dynamics", "/leaders/grokking/teams", "/studies", "/studies/lazy_rich",
    "/nothing", "/account", "/account/machines", "/account/hosts/1", "/staff", "/staff/publish",
)  # fmt: skip
EVENING = ("/", "/leaders", "/users/1", "/hosts/9", "/teams", "/sessions/1", "/status")
HEIGHT_MAX = 1600  # of a picture in the documentation


def main() -> None:
    """Make the projects, take the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER")
    parser.add_argument("--docs", action="store_true")
    given = parser.parse_args()
    if given.docs == (given.folder is not None):
        parser.error("give a folder, or --docs")
    with tempfile.TemporaryDirectory() as made, ExitStack() as closing:
        folder = Path(made)
        folder.chmod(0o755)
        for name in ("evening", "filled"):
            (folder / name).mkdir()
        evening = import_evening(folder / "evening")
        closing.callback(evening.stop)
        full = filled(folder / "filled", extremes=not given.docs)
        closing.callback(full.server.stop)
        browser = closing.enter_context(chromium())  # last: its event loop keeps others out
        if given.docs:
            renew(browser, evening, full)
        else:
            take_all(browser, evening, full, given.folder)


def import_evening(folder: Path) -> Server:
    """The evening, imported and reviewed, served."""
    made = server(folder)
    made.run("import", str(FIXTURES / "session_2026-03-02_0300.json"))
    made.run("review")
    made.serve()
    return made


def renew(browser: Any, evening: Server, full: FilledProject) -> None:
    """The three pictures of the documentation."""
    page = browser.new_page()
    take(page, f"{full.server.url}/", 1280, "light", IMAGES / "site_front.png", HEIGHT_MAX)
    take(page, f"{evening.url}/sessions/1", 1280, "light", IMAGES / "site_session.png", HEIGHT_MAX)
    take(page, f"{evening.url}/leaders", 360, "dark", IMAGES / "site_leaders_phone.png", 800)


def take_all(browser: Any, evening: Server, full: FilledProject, folder: Path) -> None:
    """Each page, whole, at every width and in every theme."""
    folder.mkdir(parents=True, exist_ok=True)
    page = browser.new_page()
    sign_in(page, full)
    shown = [("filled", full.server.url, path) for path in FILLED]
    shown += [("evening", evening.url, path) for path in EVENING]
    for project, url, path in shown:
        name = path.strip("/").replace("/", "_") or "front"
        for width in WIDTHS:
            for theme in THEMES:
                to = folder / f"{project}_{name}_{width}_{theme}.png"
                take(page, f"{url}{path}", width, theme, to)


def sign_in(page: Any, full: FilledProject) -> None:
    """As a volunteer and as staff."""
    for path, key in (("/account", full.account_keys[FOUNDER]), ("/staff", full.staff_key)):
        page.goto(f"{full.server.url}{path}/sign-in")
        page.fill("#key", key)
        page.get_by_role("button", name="Sign in").click()


def take(page: Any, address: str, width: int, theme: str, to: Path, most: int = 0) -> None:
    """One picture; ``most``: of so many pixels from the top, 0: of the whole page."""
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": most or 900})
    page.goto(address, wait_until="networkidle")
    page.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager'; })")
    page.wait_for_load_state("networkidle")
    page.screenshot(path=to, full_page=not most)
    print(to)


if __name__ == "__main__":
    main()
