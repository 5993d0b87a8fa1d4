"""An exported study: its description holds every file, its notebook reproduces every number."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import FIXTURES, Program, agent, server

STUDY = """
name = "walks"
experiment = "short_walk"
question = "Does the exponent depend on the number of walks?"
seeds = 6
[axes.walks]
values = [10, 100]
scale = "log"
[axes.pause_seconds]
values = [0.0, 0.01]
[[findings]]
name = "level"
claim = "It does not."
kind = "trend"
field = "exponent"
along = "walks"
criterion = { above = -0.2, below = 0.2 }
[[maps]]
name = "map"
title = "Exponent"
x = "walks"
y = "pause_seconds"
field = "exponent"
"""


@pytest.fixture(scope="module")
def crate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that a real agent has computed, exported."""
    folder = tmp_path_factory.mktemp("study")
    staff, volunteer = server(folder), agent(folder)
    staff.serve()
    try:
        return exported(folder, staff, volunteer)
    finally:
        staff.stop()


def exported(folder: Path, staff: Program, volunteer: Program) -> Path:
    (folder / "walks.toml").write_text(STUDY)
    walk = FIXTURES / "experiments" / "short_walk.py"
    staff.run("publish", "--skip", "dry-run", str(walk))
    staff.run("study", "sign", str(folder / "walks.toml"))
    staff.run("study", "start", str(folder / "walks.toml"))
    staff.run("deploy", "short_walk", "--count", "7")
    volunteer.run("attach", staff.url, "--user", "Ada")  # type: ignore[attr-defined]
    volunteer.run("run", "--until-idle", "--no-display")
    shown = staff.json("study", "show", "walks")
    assert (shown["results"], shown["out"], shown["parameter_sets"]) == (24, 0, 4)
    assert shown["signed_at"] <= shown["declared_at"]
    staff.run("export", "study", "walks", str(folder / "crate"))
    staff.run("export", "study", "short_walk", str(folder / "findings"))
    return folder / "crate"


def test_the_description_follows_the_specification(crate: Path) -> None:
    graph = json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]
    entities = {entity["@id"]: entity for entity in graph}
    assert entities["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    assert entities["ro-crate-metadata.json"]["conformsTo"]["@id"] == (
        "https://w3id.org/ro/crate/1.1"
    )
    root = entities["./"]
    assert {"name", "description", "datePublished", "license"} <= root.keys()
    listed = {part["@id"] for part in root["hasPart"]}
    there = {p.relative_to(crate).as_posix() for p in crate.rglob("*") if p.is_file()}
    assert listed == there - {"ro-crate-metadata.json"}
    for path in listed:
        digest = hashlib.sha256((crate / path).read_bytes()).hexdigest()
        assert entities[path]["sha256"] == digest


def test_the_declaration_is_there_with_its_signed_record(crate: Path) -> None:
    declared = json.loads((crate / "declaration.json").read_text())
    assert declared["study"]["planned_seeds"] == 6
    assert declared["signed_study"]["sha256"] == declared["study"]["sha256"]
    assert {"declared_at", "criteria_sha256", "planned_seeds", "before", "changes"} <= (
        declared["experiment"].keys()
    )
    signed = json.loads(sorted((crate / "metadata").glob("*.targets.json"))[-1].read_text())
    (custom,) = [f["custom"] for f in signed["signed"]["targets"].values()]
    assert custom["x-axiom-declaration"] == declared["experiment"]
    assert signed["signatures"]


def run_notebook(crate: Path) -> subprocess.CompletedProcess[str]:
    """Execute its code cells in an interpreter of their own, from the crate alone."""
    notebook = json.loads((crate / "reproduce.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    return subprocess.run(
        [sys.executable, "-P", "-c", "\n".join(cells)],
        cwd=crate, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_the_notebook_reproduces_every_number(crate: Path) -> None:
    done = run_notebook(crate)
    assert done.returncode == 0, done.stderr
    assert "every number of 1 findings is reproduced" in done.stdout
    assert (crate / "reproduced.png").stat().st_size > 5000


def test_the_notebook_finds_a_changed_result(crate: Path) -> None:
    path, before = crate / "cells.csv", (crate / "cells.csv").read_text()
    rows = list(csv.reader(before.splitlines()))
    rows[1][-1] = "0.1"
    path.write_text("\n".join(map(",".join, rows)))
    try:
        done = run_notebook(crate)
    finally:
        path.write_text(before)
    assert done.returncode != 0
    assert "AssertionError" in done.stderr


def test_an_experiments_own_findings_are_reproduced_too(crate: Path) -> None:
    findings = crate.parent / "findings"
    printed = json.loads((findings / "verdicts.json").read_text())
    assert [(v["name"], v["seeds"]) for v in printed] == [("diffusive", 7)]
    done = run_notebook(findings)
    assert done.returncode == 0, done.stderr
    assert "every number of 1 findings is reproduced" in done.stdout
