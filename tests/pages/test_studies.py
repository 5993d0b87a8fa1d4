"""Studies and declared figures: drawn by a process of their own, shown with their data."""

from __future__ import annotations

import csv
import io
import struct
from pathlib import Path

import httpx

from axiom_protocol.manifest import Figure
from axiom_protocol.verdicts.study_design import read_study
from axiom_server.pages.drawings import draw_all
from axiom_server.publish.deploy import select_versions
from axiom_server.review import studies
from axiom_server.store.database import Connection
from tests.support.cluster import fresh_database, transaction
from tests.support.page_client import Work, with_client
from tests.support.server_project import ServerProject

STUDY = """
name = "walks"
experiment = "short_walk"
question = "Does the exponent <i>fall</i>?"
seeds = 6

[axes.walks]
values = [10, 100]
scale = "log"
[axes.pause_seconds]
values = [0.0, 4.0]

[[findings]]
name = "falls"
claim = "The exponent falls with the walks."
kind = "trend"
field = "exponent"
along = "walks"
criterion = { below = 0.0 }
min_share = 0.5

[[maps]]
name = "plane"
title = "Exponent over walks and pause"
x = "walks"
y = "pause_seconds"
field = "exponent"
"""
FIGURE = Figure(name="exponents", title="Exponent <b>", kind="points", x="configs_done",
                y=["exponent"])  # fmt: skip
#: It has numbers and cannot be drawn: none is above zero, as the log axis needs.
BELOW_ZERO = Figure(name="below", title="Below zero", kind="points", x="configs_done",
                    y=["exponent"], y_scale="log")  # fmt: skip


def studied(conninfo: str) -> ServerProject:
    """A project whose study and figures are complete: an exponent that falls with the walks."""
    project = ServerProject(conninfo)
    project.publish(figures=[FIGURE])
    project.deploy("short_walk", count=5)

    async def declare(connection: Connection) -> None:
        (version,) = await select_versions(connection, ["short_walk"])
        await studies.declare(connection, read_study(STUDY), version)

    transaction(conninfo, declare)
    host = project.host(cores=60, trusted=True)
    grants = host.sync().grants
    assert len(grants) == 5 + 24
    project.later(60)
    host.sync([
        host.success(g, exponent=0.6 - 0.05 * len(str(g.parameters.get("walks", 1)))
                     + g.seed * 1e-6) for g in grants
    ], cpu=0)  # fmt: skip
    project.review()
    return project


def drawn(project: ServerProject) -> int:
    return transaction(project.conninfo, lambda c: draw_all(c, lambda line: None))


def run(postgres: str, folder: Path, work: Work) -> None:
    with fresh_database(postgres) as conninfo:
        project = studied(conninfo)
        assert drawn(project) == 2
        assert drawn(project) == 0, "nothing is drawn again without a new result"
        with_client(conninfo, folder / "bundles", work)


async def table(client: httpx.AsyncClient, path: str) -> list[dict[str, str]]:
    answer = (await client.get(path)).raise_for_status()
    return list(csv.DictReader(io.StringIO(answer.text)))


async def size_of_png(client: httpx.AsyncClient, path: str) -> tuple[int, int]:
    answer = (await client.get(path)).raise_for_status()
    assert answer.headers["content-type"] == "image/png"
    assert answer.content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", answer.content[16:24])
    return width, height


def test_a_study_has_a_page_with_verdicts_map_and_data(postgres: str, tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        page = (await client.get("/studies/walks")).raise_for_status().text
        assert "Does the exponent &lt;i&gt;fall&lt;/i&gt;?" in page
        assert "24" in page
        assert "6 of 6; 6 meet the criterion" in page
        for theme in ("light", "dark"):
            assert await size_of_png(client, f"/studies/walks/map.{theme}.png") > (800, 400)
            picture = (await client.get(f"/studies/walks/finding.falls.{theme}.svg")).text
            assert picture.count("<circle") == 7, "one a seed, and the mean"
        slopes = await table(client, "/studies/walks/falls.csv")
        assert len(slopes) == 6
        assert all(abs(float(line["value"]) + 0.05) < 1e-4 for line in slopes)
        cells = await table(client, "/studies/walks/cells.csv")
        assert len(cells) == 24
        assert {(line["walks"], line["pause_seconds"]) for line in cells} == {
            (w, p) for w in ("10", "100") for p in ("0.0", "4.0")
        }
        told = (await client.get("/studies/walks/cells.json")).json()
        assert [c["seed"] for c in told] == [int(c["seed"]) for c in cells]
        packed = await client.get("/studies/walks/cells.parquet")
        assert packed.content[:4] == b"PAR1"
        listing = (await client.get("/studies")).text
        assert "walks" in listing
        assert "24 results" in listing
        for missing in (
            "/studies/none", "/studies/walks/none.csv", "/studies/walks/map.png", "/studies/%00",
            "/studies/walks/%00.csv", "/leaders/%00/teams",
        ):  # fmt: skip
            assert (await client.get(missing)).status_code == 404

    run(postgres, tmp_path, work)


def test_declared_figures_are_drawn_over_all_seeds(postgres: str, tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        page = (await client.get("/experiments/short_walk")).text
        assert "Exponent &lt;b&gt;" in page
        base = "/experiments/short_walk/1.0.0/figures/exponents"
        assert base in page
        pictures = [(await client.get(f"{base}.{t}.png")).content for t in ("light", "dark")]
        assert pictures[0] != pictures[1]
        assert await size_of_png(client, f"{base}.light.png") > (800, 400)
        values = await table(client, f"{base}.csv")
        assert {int(v["seed"]) for v in values} == set(range(1, 6)), "the default parameters' seeds"
        assert {v["x"] for v in values} == {"3.0"}
        assert (await client.get(f"{base}.json")).json()[0]["y_path"] == "exponent"
        assert (await client.get("/experiments/short_walk/1.0.0/figures/no.csv")).status_code == 404

    run(postgres, tmp_path, work)


def test_before_anything_is_drawn_the_pages_say_so(postgres: str, tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        page = (await client.get("/studies/walks")).raise_for_status().text
        assert "computed soon after the first results" in page
        assert "no data yet" in page
        experiment = (await client.get("/experiments/short_walk")).text
        assert "drawn soon after the first valid results" in experiment

    with fresh_database(postgres) as conninfo:
        studied(conninfo)
        with_client(conninfo, tmp_path / "bundles", work)


def test_a_figure_that_cannot_be_drawn_stops_no_other(postgres: str, tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        base = "/experiments/short_walk/1.0.0/figures"
        assert (await client.get(f"{base}/below.light.png")).status_code == 404
        assert {v["y"] for v in await table(client, f"{base}/below.csv")} == {"-0.5"}
        assert await size_of_png(client, f"{base}/exponents.light.png") > (800, 400)

    with fresh_database(postgres) as conninfo:
        project = ServerProject(conninfo)
        project.publish(figures=[BELOW_ZERO, FIGURE])
        project.deploy("short_walk", count=2)
        host = project.host(trusted=True)
        grants = host.sync().grants
        project.later(60)
        host.sync([host.success(g, exponent=-0.5) for g in grants], cpu=0)
        project.review()
        assert drawn(project) == 1
        with_client(conninfo, tmp_path / "bundles", work)
