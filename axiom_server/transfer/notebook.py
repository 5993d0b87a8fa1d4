"""Write the notebook of an exported study, which recomputes every number of the verdicts.

The notebook needs numpy, scipy and msgspec. The decision rule is copied next to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

INTRODUCTION = """# {name}

{question}

Each cell of a seed's map is one workunit; a finding is one number for each seed. This notebook
reads `study.toml` (as `design.json`), `sets.json` and `cells.csv`, applies the rule in `rule/`, and
compares its numbers with `verdicts.json`. Run it from this folder, with numpy, scipy and msgspec
(matplotlib for the last cell)."""

LOAD = """import csv, json, sys

sys.path.insert(0, "rule")
import msgspec

from axiom_protocol.manifest import read_manifest
from axiom_protocol.verdicts.study_design import StudyDesign
from axiom_protocol.verdicts.study_verdicts import Cell, StudyData, judge_study

facts = json.load(open("study.json"))
design = msgspec.convert(json.load(open("design.json")), StudyDesign)
assert design.digest == facts["sha256"], "the design is not the one that was declared"
fields = facts["fields"]
cells = [
    Cell(position=int(r["position"]), seed=int(r["seed"]), values={f: float(r[f]) for f in fields})
    for r in csv.DictReader(open("cells.csv"))
]
data = StudyData(
    design=design, manifest=read_manifest(open("script.py").read()),
    sets=json.load(open("sets.json")), seeds=range(facts["first_seed"], facts["last_seed"] + 1),
    cells=cells, out=facts["out"],
)
print(len(data.sets), "parameter sets,", len(data.seeds), "seeds,", len(cells), "results")"""

JUDGE = """verdicts = judge_study(data)
for v in verdicts:
    print(f"{v.name}: {v.verdict}. {v.estimate} [{v.low}, {v.high}], {v.seeds} seeds")"""

COMPARE = """def compare(old, new, where):
    if isinstance(old, dict):
        assert old.keys() == new.keys(), where
        for key in old:
            compare(old[key], new[key], (*where, key))
    elif isinstance(old, float) and isinstance(new, float):
        assert abs(old - new) <= 1e-9 * max(1.0, abs(old)), (where, old, new)
    else:
        assert old == new, (where, old, new)

printed = json.load(open("verdicts.json"))
assert len(printed) == len(verdicts)
for old, new in zip(printed, json.loads(msgspec.json.encode(verdicts)), strict=True):
    compare(old, new, (old["name"],))
print("every number of", len(printed), "findings is reproduced")"""

DRAW = """if design.maps:
    try:
        from axiom_protocol.study_map import draw_maps

        draw_maps(data, "reproduced.png")
    except ValueError as error:  # matplotlib is missing, or there is no result
        print(error)"""


VERSION_INTRODUCTION = """# {name}

{question}

A finding is one number for each seed. This notebook reads `samples.json` and `issued.json`, applies
the rule in `rule/`, and compares its numbers with `verdicts.json`. `others.json` is the evidence of
the project's other findings, which were decided together with these (e-BH). Run it from this
folder, with numpy, scipy and msgspec."""

VERSION_LOAD = """import json, sys

sys.path.insert(0, "rule")
import msgspec

from axiom_protocol.manifest import read_manifest
from axiom_protocol.verdicts.evidence import Evidence
from axiom_protocol.verdicts.findings import Study, judge_together
from axiom_protocol.verdicts.samples import IssuedSeed, Sample

manifest = read_manifest(open("script.py").read())
study = Study(
    manifest=manifest,
    samples=[Sample(**s) for s in json.load(open("samples.json"))],
    issued=[IssuedSeed(**s) for s in json.load(open("issued.json"))],
    seed_ignored=json.load(open("study.json"))["seed_ignored"],
)
others = [Evidence(**e) for e in json.load(open("others.json"))]
print(len(study.samples), "results,", len(study.issued), "seeds,", len(others), "other findings")"""

VERSION_JUDGE = """(verdicts,) = judge_together([study], others)
for v in verdicts:
    print(f"{v.name}: {v.verdict}. {v.estimate} [{v.low}, {v.high}], {v.seeds} seeds")"""

STUDY_CELLS = (LOAD, JUDGE, COMPARE, DRAW)
VERSION_CELLS = (VERSION_LOAD, VERSION_JUDGE, COMPARE)


def write_notebook(path: Path, introduction: str, code: Sequence[str]) -> None:
    """Write the notebook (nbformat 4.5)."""
    cells = [_cell(0, "markdown", introduction)]
    cells += [_cell(i, "code", text) for i, text in enumerate(code, 1)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {
        "cells": cells, "nbformat": 4, "nbformat_minor": 5,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
    }  # fmt: skip
    path.write_bytes(msgspec.json.format(msgspec.json.encode(notebook), indent=1))


def _cell(number: int, kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "id": f"cell-{number}", "cell_type": kind, "metadata": {},
        "source": text.splitlines(keepends=True),
    }  # fmt: skip
    return cell if kind == "markdown" else {**cell, "outputs": [], "execution_count": None}
