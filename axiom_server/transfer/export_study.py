"""`axiom-server export study`: a folder that lets others check a study without this server."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

import axiom_protocol
from axiom_protocol.figure import FigureError
from axiom_protocol.manifest import Manifest
from axiom_protocol.study_map import draw_maps
from axiom_protocol.verdicts.findings import Study, judge_together
from axiom_protocol.verdicts.study_verdicts import StudyData, judge_study
from axiom_server.errors import FileUnreadable
from axiom_server.project_folder import ProjectFolder
from axiom_server.review import judging, studies
from axiom_server.store.database import Connection
from axiom_server.store.studies import StudyRow
from axiom_server.transfer.crate import describe_folder
from axiom_server.transfer.notebook import (
    INTRODUCTION,
    STUDY_CELLS,
    VERSION_CELLS,
    VERSION_INTRODUCTION,
    write_notebook,
)

ABOUT = {
    "script.py": "The experiment, as it was signed and run on every host",
    "design.json": "The study as it was declared before its data",
    "declaration.json": "The declarations of the study and of the experiment's version, with times",
    "sets.json": "The parameter sets, by position; those added by refinement come last",
    "samples.json": "Results by which the findings are judged, one or more for each seed",
    "issued.json": "Every seed that was planned, with its state",
    "others.json": "The evidence of findings that were decided together with these",
    "cells.csv": "Results that count: one for each parameter set and seed",
    "study.json": "Seeds, state and fields of the study",
    "verdicts.json": "The findings with their verdicts and numbers",
    "map.png": "The study's maps",
    "reproduce.ipynb": "Computes every number of verdicts.json again",
}


async def export_study(
    connection: Connection, project: ProjectFolder, name: str, target: Path
) -> str:
    """Write the folder of a study, or of an experiment with findings; returns a summary.

    The folder must not exist. Raises NotFound, FileUnreadable.
    """
    every = await judging.in_use(connection)
    for version, judged in every:
        if name in (version.name, version.manifest.ref):
            others = [s for v, s in every if v != version]
            found = _Version(manifest=version.manifest, study=judged, others=others)
            _write(target, project, found)
            return f"{len(judged.samples):,} results of {version.manifest.ref}"
    study, data = await studies.load(connection, name)
    _write(target, project, _Study(row=study, data=data))
    return f"{len(data.cells):,} results of {len(data.sets):,} parameter sets"


@dataclass(frozen=True, kw_only=True)
class _Study:
    """A study over parameter sets."""

    row: StudyRow
    data: StudyData

    @property
    def manifest(self) -> Manifest:
        return self.data.manifest

    @property
    def title(self) -> tuple[str, str]:
        return self.row.name, self.row.design.question

    def write(self, target: Path) -> dict[str, Any]:
        """Write the study's data and notebook; returns its declaration."""
        _write_study(target, self.row, self.data)
        name, question = self.title
        introduction = INTRODUCTION.format(name=name, question=question)
        write_notebook(target / "reproduce.ipynb", introduction, STUDY_CELLS)
        return {"study": _study_declaration(self.row)}


@dataclass(frozen=True, kw_only=True)
class _Version:
    """The findings that an experiment's version declares, and others that are decided with them."""

    manifest: Manifest
    study: Study
    others: Sequence[Study]

    @property
    def title(self) -> tuple[str, str]:
        return self.manifest.ref, self.manifest.question

    def write(self, target: Path) -> dict[str, Any]:
        """Write the version's data and notebook; it has no declaration of its own to return."""
        others = [w.evidence for s in self.others for w in s.weigh(unsettled_too=False)]
        _json(target / "verdicts.json", judge_together([self.study], others)[0])
        _python_json(target / "others.json", [asdict(e) for e in others])
        _python_json(target / "samples.json", [asdict(s) for s in self.study.samples])
        _python_json(target / "issued.json", [asdict(s) for s in self.study.issued or ()])
        _json(target / "study.json", {
            "experiment": self.manifest.ref, "seed_ignored": self.study.seed_ignored,
        })  # fmt: skip
        name, question = self.title
        introduction = VERSION_INTRODUCTION.format(name=name, question=question)
        write_notebook(target / "reproduce.ipynb", introduction, VERSION_CELLS)
        return {}


def _write(target: Path, project: ProjectFolder, exported: _Study | _Version) -> None:
    try:
        target.mkdir(parents=True)
        declared = exported.write(target)
        _write_declaration(target, project, exported.manifest, declared)
        _copy_rule(target / "rule")
        describe_folder(
            target, *exported.title, datetime.now(UTC), ABOUT, exported.manifest.references
        )
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
        return  # the study declares no map, or has no results to draw yet


def _study_declaration(study: StudyRow) -> dict[str, Any]:
    return {
        "sha256": study.digest, "declared_at": study.declared_at.astimezone(UTC).isoformat(),
        "planned_seeds": study.design.seeds, "first_seed": study.first_seed,
        "criteria": {f.name: f.criterion for f in study.design.findings},
    }  # fmt: skip


def _write_declaration(
    target: Path, project: ProjectFolder, manifest: Manifest, declared: Mapping[str, Any]
) -> None:
    """Write the script, its signed record, and the signed metadata that contain the record."""
    (target / "script.py").write_bytes(project.bundles.source(manifest.name, manifest.version))
    record = {
        **declared,
        "signed_study": _signed_study(project, declared),
        "experiment": project.bundles.declarations().get(manifest.ref),
        "signed_by": project.bundles.fingerprint(),
    }
    _json(target / "declaration.json", record)
    (target / "metadata").mkdir()
    for path in sorted((project.path / "bundles" / "metadata").glob("*.json")):
        shutil.copy(path, target / "metadata" / path.name)


def _signed_study(project: ProjectFolder, declared: Mapping[str, Any]) -> dict[str, Any] | None:
    """The signed record of the study's declaration; None where there is none."""
    digest = declared.get("study", {}).get("sha256")
    records = project.bundles.studies().values()
    return next((record for record in records if record["sha256"] == digest), None)


def _copy_rule(target: Path) -> None:
    """Copy the source of the decision rule, so that the notebook does not need this program."""
    shutil.copytree(
        Path(axiom_protocol.__file__).parent, target / "axiom_protocol",
        ignore=shutil.ignore_patterns("__pycache__"),
    )  # fmt: skip


def _json(path: Path, value: Any) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=1))


def _python_json(path: Path, value: Any) -> None:
    """Write JSON with Infinity, which occurs in evidence and which msgspec cannot write."""
    path.write_text(json.dumps(value, indent=1))
