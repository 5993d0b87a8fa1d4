"""What takes long to make for pages is made by a process of its own, before anybody asks."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from tests.support.processes import wait_for
from tests.support.programs import FIXTURES, server

RESULT = {"result_id": 1, "user": "ann", "host_id": 9, "experiment": "short_walk",
          "elapsed_seconds": 10.0}  # fmt: skip


def test_a_serving_process_writes_the_daily_statistics_unasked(tmp_path: Path) -> None:
    project = server(tmp_path)
    project.run("publish", "--skip", "dry-run", str(FIXTURES / "experiments" / "short_walk.py"))
    (tmp_path / "old.json").write_text(json.dumps({"results": [RESULT]}))
    project.run("import", str(tmp_path / "old.json"))
    project.run("review")
    stats = project.folder / "stats"
    assert not stats.exists()
    project.serve()
    try:
        wait_for("the daily statistics", lambda: (stats / "tables.xml").exists())
        made_at = (stats / "user.gz").stat().st_mtime
        served = httpx.get(f"{project.url}/stats/user.gz").raise_for_status()
        assert served.content == (stats / "user.gz").read_bytes()
        assert project.run("refresh-pages").strip().endswith("0 experiments and studies drawn")
        assert (stats / "user.gz").stat().st_mtime == made_at, "they are of today"
    finally:
        assert project.stop() == 0
