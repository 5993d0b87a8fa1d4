"""The notebook of an exported study: it computes every number of the verdicts again.

It needs numpy, scipy and msgspec; the rule itself lies beside it, as the server has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

INTRODUCTION = """# {name}

{question}

Every cell of a seed's map is one workunit; a finding is one number a seed. This notebook reads
`study.toml` (as `design.json`), `sets.json` and `cells.csv`, applies the rule in `rule/`, and holds
its numbers against `verdicts.json`. Run it from this folder, with numpy, scipy and msgspec
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

COMPARE = """printed = json.load(open("verdicts.json"))
assert len(printed) == len(verdicts)
for old, new in zip(printed, msgspec.to_builtins(verdicts), strict=True):
    for key, value in old.items():
        same = value == new[key]
        if isinstance(value, float):
            same = abs(value - new[key]) <= 1e-9 * max(1.0, abs(value))
        assert same, (old["name"], key, value, new[key])
print("every number of", len(printed), "findings is reproduced")"""

DRAW = """if design.maps:
    try:
        from axiom_protocol.study_map import draw_maps

        draw_maps(data, "reproduced.png")
    except ValueError as error:  # matplotlib is missing, or there is no result
        print(error)"""


def write_notebook(path: Path, name: str, question: str) -> None:
    """Write the notebook (nbformat 4.5)."""
    introduction = INTRODUCTION.format(name=name, question=question)
    cells = [_cell(0, "markdown", introduction)]
    cells += [_cell(i, "code", text) for i, text in enumerate((LOAD, JUDGE, COMPARE, DRAW), 1)]
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
