"""Exported results: their columns, and the query in the documentation."""

from __future__ import annotations

import asyncio
import csv
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from axiom_server.errors import ExperimentUnknown, FileUnreadable, ServerError
from axiom_server.store.database import connect
from axiom_server.transfer import export_results
from tests.support.cluster import cluster, fresh_database
from tests.support.server_project import ServerProject

STAFF = Path(__file__).parents[2] / "docs" / "staff.md"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProject]:
    """Eight results, six of them reviewed, one invalid; and one that was refused."""
    with (
        cluster(Path(tmp_path_factory.mktemp("pg"))) as conninfo,
        fresh_database(conninfo) as database,
    ):
        made = ServerProject(database)
        made.publish()
        made.deploy("short_walk", count=9, parameters=({"walks": 50},))
        host = made.host(cores=9)
        host.sync()
        made.later(200)
        grants = list(host.held.values())
        good = [host.success(grant, 150.0) for grant in grants[:5]]
        invalid = host.success(grants[5], 150.0, valid=0)
        host.sync([*good, invalid, host.success(grants[6], exponent=99.0)], cpu=0)
        made.review()
        host.sync([host.success(grant, 150.0) for grant in grants[7:]], cpu=0)
        yield made


def export(project: ServerProject, target: Path, *names: str, parquet: bool = True) -> None:
    async def inside() -> None:
        async with connect(project.conninfo) as connection:
            await export_results.export_results(connection, target, list(names), parquet=parquet)

    asyncio.run(inside())


def test_every_accepted_result_is_a_row(project: ServerProject, tmp_path: Path) -> None:
    export(project, tmp_path / "results.parquet")
    with duckdb.connect(config=export_results.DUCKDB_CONFIG) as connection:
        found = connection.sql(
            f"""SELECT count(*), count(DISTINCT seed), count_if(valid), sum(credit),
                       min(parameters ->> 'walks'), min(parameters ->> 'pause_seconds'),
                       min(result ->> 'exponent'), min(elapsed_seconds), min(experiment)
                FROM '{tmp_path}/results.parquet'"""
        ).fetchall()
    assert found == [(8, 8, 7, 30, "50", "0.0", "0.5001", 150.0, "short_walk")]
    assert list(tmp_path.iterdir()) == [tmp_path / "results.parquet"], "nothing else is left"


def test_csv_needs_no_library(project: ServerProject, tmp_path: Path) -> None:
    export(project, tmp_path / "results.csv", "short_walk", parquet=False)
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert len(rows) == 8
    assert rows[0]["credit"] == "5.000"


def test_the_documented_query(
    project: ServerProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(project, tmp_path / "results.parquet")
    query = re.search(r"```sql\n(.*?)```", STAFF.read_text(), re.DOTALL)
    assert query is not None
    monkeypatch.chdir(tmp_path)
    with duckdb.connect(config=export_results.DUCKDB_CONFIG) as connection:
        found = {line[2]: line for line in connection.sql(query[1]).fetchall()}
    experiment, version, _, seeds, hosts, mean, deviation = found["exponent"]
    assert (experiment, version, seeds, hosts) == ("short_walk", "1.0.0", 7, 1)
    assert mean == pytest.approx(0.5 + 1e-4 * (1 + 2 + 3 + 4 + 5 + 8 + 9) / 7)
    assert deviation > 0


def test_export_errors_are_one_clear_line(
    project: ServerProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExperimentUnknown, match=r"short_wlak.*did you mean short_walk"):
        export(project, tmp_path / "results.parquet", "short_wlak")
    with pytest.raises(FileUnreadable, match="No such file"):
        export(project, tmp_path / "absent" / "results.parquet")
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ServerError, match=r"pip install 'axiom-client\[server,analysis\]'"):
        export(project, tmp_path / "results.parquet")
    assert os.listdir(tmp_path) == []
