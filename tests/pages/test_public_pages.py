"""Public pages over a real database: their numbers are the database's, and nothing is private."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import httpx

from tests.support.cluster import fresh_database
from tests.support.page_client import Work, with_client
from tests.support.server_project import ServerProject

EVIL = '<b>&"x'


def reviewed(conninfo: str) -> ServerProject:
    """A project of two volunteers whose eight results were reviewed."""
    project = ServerProject(conninfo)
    project.publish()
    project.deploy("short_walk", count=8)
    for user in (EVIL, "zoe"):
        host = project.host(user, cores=4, trusted=True)
        host.sync()
        project.later(60)
        host.succeed_all(cpu=0)
    project.execute("INSERT INTO teams (name) VALUES ('Team <i>')")
    project.execute("UPDATE users SET team_id = 1 WHERE name = %s", EVIL)
    project.review()
    return project


def run(postgres: str, folder: Path, work: Work, hide: bool = False) -> None:
    with fresh_database(postgres) as conninfo:
        project = reviewed(conninfo)
        if hide:
            project.execute("UPDATE users SET shown = false WHERE name = 'zoe'")
        with_client(conninfo, folder / "bundles", work)


def test_links_resolve_and_text_is_escaped(postgres: str, tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        waiting, seen = ["/"], set[str]()
        while waiting and len(seen) < 300:
            path = waiting.pop()
            if path in seen:
                continue
            seen.add(path)
            page = await client.get(path)
            if path.startswith("/account/hosts/"):  # for its owner, who is to sign in
                assert page.status_code == 401, path
                continue
            assert page.status_code == 200, path
            if not page.headers["content-type"].startswith("text/html"):
                continue
            assert "<b>" not in page.text, path
            assert "<i>" not in page.text, path
            found = re.findall(r'(?:href|src|srcset)="(/[^"#]*)', page.text)
            waiting += [f.replace("&amp;", "&") for f in found]
        assert {"/users/1", "/hosts/1", "/teams/1", "/sessions/1", "/status.xml"} <= seen
        assert any(path.endswith(".parquet") for path in seen)

    run(postgres, tmp_path, work)


def test_the_numbers_behind_a_picture_are_those_judged(postgres: str, tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        base = "/experiments/short_walk/1.0.0"
        page = (await client.get("/experiments/short_walk")).text
        assert "<dt>By the rule of 0.1.0</dt><dd>confirmed</dd>" in page
        name = re.findall(r'/([a-z_0-9]+)\.csv"', page)[0]
        text = (await client.get(f"{base}/{name}.csv")).text
        lines = list(csv.DictReader(io.StringIO(text)))
        assert [int(line["seed"]) for line in lines] == list(range(1, 9))
        assert float(lines[0]["value"]) == 0.5 + 1e-4
        told = (await client.get(f"{base}/{name}.json")).json()
        assert len(told["values"]) == told["verdict"]["seeds"] == 8
        picture = ElementTree.fromstring((await client.get(f"{base}/{name}.light.svg")).text)
        dots = picture.findall(
            ".//{http://www.w3.org/2000/svg}g/{http://www.w3.org/2000/svg}circle"
        )
        assert len(dots) == 8
        assert (await client.get(f"{base}/nothing.csv")).status_code == 404

    run(postgres, tmp_path, work)


def test_statistics_have_boincs_elements_and_omit_hidden_users(
    postgres: str, tmp_path: Path
) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        found = {}
        for name in ("user", "host", "team"):
            packed = (await client.get(f"/stats/{name}.gz")).content
            found[name] = ElementTree.fromstring(gzip.decompress(packed))
        assert [u.findtext("name") for u in found["user"]] == [EVIL]
        assert [u.tag for u in found["user"][0]] == [
            "id", "name", "create_time", "total_credit", "expavg_credit", "expavg_time", "cpid",
            "teamid",
        ]  # fmt: skip
        assert [h.findtext("userid") for h in found["host"]] == ["1"]
        assert found["team"][0].findtext("name") == "Team <i>"
        assert float(found["team"][0].findtext("total_credit") or 0) == 8
        tables = ElementTree.fromstring((await client.get("/stats/tables.xml")).text)
        assert tables.findtext("nusers_total") == "2"
        assert tables.findtext("total_credit") == "16.000000"
        assert (await client.get("/users/3")).status_code == 404
        assert (await client.get("/hosts/2")).status_code == 404
        for path in ("/leaders", "/leaders/short_walk", "/sessions/1", "/status"):
            assert "zoe" not in (await client.get(path)).text

    run(postgres, tmp_path, work, hide=True)


def test_a_hosts_name_is_not_public(postgres: str, tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        for path in ("/users/1", "/hosts/1"):
            assert "host1" not in (await client.get(path)).text

    run(postgres, tmp_path, work)


def test_status_has_boincs_names(postgres: str, tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        root = ElementTree.fromstring((await client.get("/status.xml")).text)
        states = root.find("database_file_states")
        assert states is not None
        assert states.findtext("results_in_progress") == "0"
        assert states.findtext("users_with_credit") == "2"
        assert states.findtext("tasks_by_app/app/name") == "short_walk"
        assert (await client.get("/status.json")).json()["totals"]["credited_results"] == 8

    run(postgres, tmp_path, work)


def test_an_experiment_is_one_archive(postgres: str, tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        base = "/experiments/short_walk/1.0.0"
        packed = zipfile.ZipFile(io.BytesIO((await client.get(f"{base}/crate.zip")).content))
        crate = json.loads(packed.read("ro-crate-metadata.json"))
        root = next(e for e in crate["@graph"] if e["@id"] == "./")
        parts = {part["@id"] for part in root["hasPart"]}
        assert parts == set(packed.namelist()) - {"ro-crate-metadata.json"}
        finding = json.loads(packed.read("findings/diffusive.json"))
        assert len(finding["values"]) == 8
        lines = list(csv.DictReader(io.StringIO(packed.read("results.csv").decode())))
        assert [int(line["seed"]) for line in lines] == list(range(1, 9))
        assert json.loads(lines[0]["result"])["exponent"] == 0.5 + 1e-4
        [only] = json.loads(packed.read("parameters.json"))
        assert (only["parameters"], only["next_seed"]) == ({}, 9)
        told = {e["@id"]: e for e in crate["@graph"]}["results.csv"]
        content = packed.read("results.csv")
        assert told["contentSize"] == str(len(content))
        assert told["sha256"] == hashlib.sha256(content).hexdigest()

    run(postgres, tmp_path, work)


def test_a_picture_that_the_client_has_is_not_made_again(postgres: str, tmp_path: Path) -> None:
    with fresh_database(postgres) as conninfo:
        project = reviewed(conninfo)
        path = "/experiments/short_walk/1.0.0/diffusive.light.svg"

        async def work(client: httpx.AsyncClient) -> None:
            first = (await client.get(path)).raise_for_status()
            has = {"if-none-match": first.headers["etag"]}
            assert (await client.get(path, headers=has)).status_code == 304
            assert (await client.get(path)).content == first.content
            project.execute("UPDATE finding_values SET judged_at = judged_at + interval '1 s'")
            assert (await client.get(path, headers=has)).status_code == 200

        with_client(conninfo, tmp_path / "bundles", work)


def test_feeds_list_findings_and_sessions(postgres: str, tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        atom = "{http://www.w3.org/2005/Atom}"
        feed = ElementTree.fromstring((await client.get("/feeds/findings.atom")).text)
        entry = feed.findall(f"{atom}entry")[0]
        link = entry.find(f"{atom}link")
        assert link is not None
        assert link.get("href") == "http://here/experiments/short_walk/1.0.0#diffusive"
        sessions = ElementTree.fromstring((await client.get("/feeds/sessions.atom")).text)
        assert sessions.findtext(f"{atom}entry/{atom}summary") == "8 results, 16 credit"

    run(postgres, tmp_path, work)


def test_a_session_is_shown_page_by_page_and_whole_as_files(postgres: str, tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        first = (await client.get("/sessions/1")).raise_for_status().text
        assert first.count('<a href="/users/') == 100
        second = (await client.get("/sessions/1?page=2")).raise_for_status().text
        assert 'href="/sessions/1?page=2"' in first
        assert "page=3" not in second
        assert second.count('<a href="/users/') == 5
        told = (await client.get("/sessions/1/credit.json")).json()
        assert [line["credit"] for line in told] == sorted(
            (line["credit"] for line in told), reverse=True
        )
        assert len(told) == 105
        text = (await client.get("/sessions/1/credit.csv")).text
        assert len(text.splitlines()) == 106
        assert (await client.get("/sessions/1/none.csv")).status_code == 404
        assert (await client.get("/sessions/1/credit.exe")).status_code == 404

    with fresh_database(postgres) as conninfo:
        project = reviewed(conninfo)
        project.execute(
            """INSERT INTO users (user_id, name) SELECT 1000 + i, 'volunteer ' || i
               FROM generate_series(1, 104) i"""
        )
        project.execute("UPDATE users SET shown = false WHERE user_id = 1001")
        project.execute(
            """INSERT INTO user_sessions SELECT 1000 + i, 1, 1, i, 1, ARRAY[1]
               FROM generate_series(1, 104) i"""
        )
        project.execute("""UPDATE sessions SET sums = sums || '{"users": 106}'""")
        with_client(conninfo, tmp_path / "bundles", work)
