"""`axiom-server export study`: a folder with which others can check a study without this server."""

from __future__ import annotations

import csv
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

import axiom_protocol
from axiom_protocol.figure import FigureError
from axiom_protocol.study_map import draw_maps
from axiom_protocol.verdicts.study_verdicts import StudyData, judge_study
from axiom_server.errors import FileUnreadable
from axiom_server.project_folder import ProjectFolder
from axiom_server.review import studies
from axiom_server.store.database import Connection
from axiom_server.store.studies import StudyRow
from axiom_server.transfer.crate import write_metadata
from axiom_server.transfer.notebook import write_notebook

ABOUT = {
    "script.py": "The experiment, as it was signed and run on every host",
    "design.json": "The study as it was declared before its data",
    "declaration.json": "What was declared when: the study, and the experiment's version",
    "sets.json": "The parameter sets, by position; those of refinement come last",
    "cells.csv": "Results that stand: one of each parameter set and seed",
    "study.json": "Seeds, state and fields of the study",
    "verdicts.json": "The findings with their verdicts and numbers",
    "map.png": "The study's maps",
    "reproduce.ipynb": "Computes every number of verdicts.json again",
}


async def export_study(
    connection: Connection, project: ProjectFolder, name: str, target: Path
) -> StudyData:
    """Write the folder, which must not exist. Raises NotFound, FileUnreadable."""
    study, data = await studies.load(connection, name)
    _write(target, project, study, data)
    return data


def _write(target: Path, project: ProjectFolder, study: StudyRow, data: StudyData) -> None:
    try:
        target.mkdir(parents=True)
        _write_study(target, study, data)
        _write_declaration(target, project, study, data)
        _copy_rule(target / "rule")
        write_notebook(target / "reproduce.ipynb", study.name, study.design.question)
        write_metadata(
            target, study.name, study.design.question, datetime.now(UTC), ABOUT,
            data.manifest.references,
        )  # fmt: skip
    except FileExistsError:
        raise FileUnreadable(f"{target} exists already; name a new folder") from None
    except OSError as error:
        raise FileUnreadable(f"cannot write {target}: {error.strerror}") from None


def _write_study(target: Path, study: StudyRow, data: StudyData) -> None:
    fields = sorted(data.cells[0].values) if data.cells else []
    facts = {
        "study": study.name, "experiment": data.manifest.ref, "sha256": study.digest,
        "state": study.state, "rounds": study.rounds, "first_seed": data.seeds[0],
        "last_seed": data.seeds[-1], "fields": fields, "out": data.out,
    }  # fmt: skip
    _json(target / "study.json", facts)
    _json(target / "design.json", study.design)
    _json(target / "sets.json", list(data.sets))
    _json(target / "verdicts.json", judge_study(data))
    axes = list(study.design.axes)
    with (target / "cells.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["position", "seed", *axes, *fields])
        for cell in data.cells:
            at = [data.sets[cell.position][axis] for axis in axes]
            table.writerow([cell.position, cell.seed, *at, *(cell.values[f] for f in fields)])
    try:
        draw_maps(data, target / "map.png")
    except FigureError:
        return  # it declares no map, or there is nothing to draw yet


def _write_declaration(
    target: Path, project: ProjectFolder, study: StudyRow, data: StudyData
) -> None:
    """The script, its signed record, and the signed metadata that the record is read from."""
    manifest = data.manifest
    (target / "script.py").write_bytes(project.bundles.source(manifest.name, manifest.version))
    declared = {
        "study": {
            "sha256": study.digest, "declared_at": study.declared_at.astimezone(UTC).isoformat(),
            "planned_seeds": study.design.seeds, "first_seed": study.first_seed,
            "criteria": {f.name: f.criterion for f in study.design.findings},
        },
        "experiment": project.bundles.declarations().get(manifest.ref),
        "signed_by": project.bundles.fingerprint(),
    }  # fmt: skip
    _json(target / "declaration.json", declared)
    (target / "metadata").mkdir()
    for path in sorted((project.path / "bundles" / "metadata").glob("*.json")):
        shutil.copy(path, target / "metadata" / path.name)


def _copy_rule(target: Path) -> None:
    """The rule's source, so that the notebook needs no installation of this program."""
    shutil.copytree(
        Path(axiom_protocol.__file__).parent, target / "axiom_protocol",
        ignore=shutil.ignore_patterns("__pycache__"),
    )  # fmt: skip


def _json(path: Path, value: Any) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=1))
