"""The session of 2 March 2026 on the web pages: credit, teams and the log's tables."""

from __future__ import annotations

import gzip
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest

from tests.support.programs import FIXTURES, Server, server

HISTORY = FIXTURES / "session_2026-03-02_0300.json"
EXPECTED: dict[str, Any] = json.loads(HISTORY.read_text())["expected"]
TEAMS = {"[DPC] hansR": "DPC", "[VENETO] boboviz": "VENETO", "zombie67 [MM]": "MM"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = server(tmp_path_factory.mktemp("evening-pages"))
    made.run("import", str(HISTORY))
    made.run("review")
    made.serve()
    try:
        yield made
    finally:
        made.stop()


def text_of(project: Server, path: str) -> str:
    return html.unescape(httpx.get(project.url + path).raise_for_status().text)


def users(project: Server) -> dict[str, str]:
    """Each volunteer's page, as the leaderboard links to it."""
    return {n: p for p, n in re.findall(r'<a href="(/users/\d+)">([^<]+)</a>',
                                        text_of(project, "/leaders"))}  # fmt: skip


def test_each_volunteers_page_shows_the_logs_credit_and_team(project: Server) -> None:
    found = users(project)
    assert found.keys() == EXPECTED["per_user"].keys()
    for name, credit in EXPECTED["per_user"].items():
        page = text_of(project, found[name])
        assert f"<h1>{name}</h1>" in page
        assert f"<dt>credit</dt><dd>{credit:,}</dd>" in page
        team = re.search(r'<dt>Team</dt><dd>(?:<a href="/teams/\d+">)?([^<]+)<', page)
        assert team is not None
        assert team[1] == TEAMS.get(name, "none")


def test_the_session_page_shows_the_logs_tables(project: Server) -> None:
    page = text_of(project, "/sessions/1")
    tables = {m[1]: m[2] for m in re.finditer(r'<table id="(\w+)"[^>]*>(.*?)</table>', page, re.S)}
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", r) for r in tables["users"].split("<tr>")[2:]]
    plain = [[re.sub(r"<[^>]+>", "", cell) for cell in row] for row in rows]
    assert {r[0]: int(r[1].replace(",", "")) for r in plain} == EXPECTED["per_user"]
    assert {r[0]: r[3] for r in plain}["Steve Dodd"] == "85, 87, 123"
    tiers = [
        re.findall(r'<td class="n">([\d,]+)</td>', r) for r in tables["tiers"].split("<tr>")[2:]
    ]
    figures = [(int(t[0].replace(",", "")), int(t[2].replace(",", ""))) for t in tiers]
    assert figures == [(t["results"], t["credit"]) for t in EXPECTED["per_tier"]]


def test_teams_have_their_members_credit(project: Server) -> None:
    page = text_of(project, "/teams")
    for name, team in TEAMS.items():
        line = re.search(rf">{team}</a></td>(.*?)</tr>", page, re.S)
        assert line is not None
        members, credit = re.findall(r'class="n">([\d,]+)<', line[1])[:2]
        assert (members, credit) == ("1", f"{EXPECTED['per_user'][name]:,}")


def test_the_statistics_hold_the_same_credit(project: Server, tmp_path: Path) -> None:
    project.run("export", "statistics", str(tmp_path))
    root = ElementTree.fromstring(gzip.decompress((tmp_path / "user.gz").read_bytes()))
    found = {u.findtext("name"): float(u.findtext("total_credit") or 0) for u in root}
    assert found == EXPECTED["per_user"]
    served = httpx.get(f"{project.url}/stats/user.gz").raise_for_status().content
    assert len(ElementTree.fromstring(gzip.decompress(served))) == len(found)


def test_the_links_of_an_imported_experiments_lists_resolve(project: Server) -> None:
    """No version of an imported experiment was published here, so it has no page of its own."""
    lists = ("/leaders/grokking_dynamics", "/leaders/grokking_dynamics/teams", "/teams", "/status")
    with httpx.Client(base_url=project.url, timeout=60) as client:
        pages = [client.get(path).raise_for_status().text for path in lists]
        links = {link for page in pages for link in re.findall(r'href="(/[^"#]*)', page)}
        assert "/leaders/lottery_ticket" in links
        missing = [link for link in sorted(links) if client.get(link).status_code == 404]
    assert missing == []
