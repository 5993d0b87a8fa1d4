"""Leaderboards of volunteers and teams, and credit by day: as the ledger says."""

from __future__ import annotations

import html
import re
from pathlib import Path

import httpx

from tests.support.cluster import fresh_database
from tests.support.page_client import with_client
from tests.support.server_project import ServerProject


def competed(conninfo: str) -> ServerProject:
    """Three volunteers in two teams, who earned with two experiments in two sessions."""
    project = ServerProject(conninfo)
    project.publish()
    project.publish("short_walk", name="other_walk")
    project.execute("INSERT INTO teams (name) VALUES ('Reds'), ('Blues')")
    hosts = {name: project.host(name, cores=6, trusted=True) for name in ("ann", "bob", "cat")}
    project.execute("UPDATE users SET team_id = 1 WHERE name IN ('ann', 'bob')")
    project.execute("UPDATE users SET team_id = 2 WHERE name = 'cat'")
    for experiment, tasks in (("short_walk", (6, 4, 5)), ("other_walk", (1, 0, 3))):
        project.deploy(experiment, count=sum(tasks))
        for host, count in zip(hosts.values(), tasks, strict=True):
            host.sync(cpu=count)
        project.later(60)
        for host in hosts.values():
            host.succeed_all(cpu=0)
        project.review()
    return project


def lines(page: str) -> list[list[str]]:
    """The cells of the page's first table, without its heading."""
    rows = re.findall(r"<tr>(.*?)</tr>", page.split("<table", 1)[1], re.S)[1:]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in rows]
    return [[html.unescape(re.sub(r"<[^>]+>", "", c)) for c in row] for row in cells]


def test_teams_and_volunteers_are_ranked_as_the_ledger_says(postgres: str, tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        async def board(path: str, *columns: int) -> list[list[str]]:
            page = (await client.get(path)).raise_for_status().text
            return [[line[c] for c in columns] for line in lines(page)]

        assert await board("/teams", 1, 2, 3) == [["Reds", "2", "22"], ["Blues", "1", "16"]]
        assert await board("/teams?order=day", 1, 5, 6) == [
            ["Reds", "11", "22"], ["Blues", "8", "16"]
        ]  # fmt: skip
        assert await board("/leaders/other_walk/teams", 1, 5, 6) == [
            ["Blues", "3", "6"], ["Reds", "1", "2"]
        ]  # fmt: skip
        assert await board("/leaders/short_walk", 1, 3, 4) == [
            ["ann", "6", "12"], ["cat", "5", "10"], ["bob", "4", "8"]
        ]  # fmt: skip
        for path in ("/teams?order=none", "/leaders/none/teams", "/charts/teams/x.csv"):
            assert (await client.get(path)).status_code == 404

    with fresh_database(postgres) as conninfo:
        competed(conninfo)
        with_client(conninfo, tmp_path / "bundles", work)


def test_credit_by_day_is_of_the_team_that_a_member_was_in(postgres: str, tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        for path, wanted in (
            ("/charts/teams/1.csv", "11,22"), ("/charts/teams/2.csv", "8,16"),
            ("/charts/experiments/other_walk.csv", "4,8"),
        ):  # fmt: skip
            head, line = (await client.get(path)).raise_for_status().text.splitlines()
            assert head == "day,results,credit"
            assert line.split(",", 1)[1] == wanted
        picture = (await client.get("/charts/experiments/other_walk.dark.svg")).text
        assert "8 credit" in picture
        for kind in ("svg", "csv"):  # of cat, who is hidden, and of her host
            for path in (f"/charts/users/{ids[0][0]}", f"/charts/hosts/{ids[0][1]}"):
                name = f"{path}.light.svg" if kind == "svg" else f"{path}.csv"
                assert (await client.get(name)).status_code == 404

    with fresh_database(postgres) as conninfo:
        project = competed(conninfo)
        project.execute("UPDATE users SET team_id = 2 WHERE name = 'bob'")
        ids = project.rows("SELECT user_id, host_id FROM users JOIN hosts USING (user_id) "
                           "WHERE users.name = 'cat'")  # fmt: skip
        project.execute("UPDATE users SET shown = false WHERE name = 'cat'")
        with_client(conninfo, tmp_path / "bundles", work)
