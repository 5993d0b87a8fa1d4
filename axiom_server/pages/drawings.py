"""Draws ahead what takes long to draw: declared figures over all seeds, and studies.

`axiom-server refresh-pages` does it. A serving process runs that command after each review and at
most every ten minutes otherwise, at low priority.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from axiom_protocol.figure import VALUE_COLUMNS, FigureError, draw, values_of
from axiom_protocol.manifest import Figure, Manifest
from axiom_protocol.result import Result
from axiom_protocol.study_map import draw_maps
from axiom_protocol.verdicts.study_design import StudyFinding
from axiom_protocol.verdicts.study_verdicts import StudyData, judge_study
from axiom_server.pages import chart
from axiom_server.pages.chart import THEMES, Strip, Theme
from axiom_server.pages.environment import counted
from axiom_server.pages.wording import criterion_text
from axiom_server.review import studies as study_reviews
from axiom_server.store import drawings, experiments, findings, studies
from axiom_server.store.database import Connection
from axiom_server.store.experiments import VersionRow
from axiom_server.store.studies import StudyRow

SEEDS_DRAWN_MAX = 400  # of a declared figure: more would change a mean by nothing that can be seen
CELLS_MAX = 200_000  # rows of a study's table


async def draw_all(connection: Connection, log: Callable[[str], None]) -> int:
    """Draw what is out of date; returns the number of experiments and studies drawn.

    Each is stored in a transaction of its own: the connection must be outside one.
    """
    before, done = await drawings.made_of(connection), 0
    for version in await experiments.versions(connection):
        if version.manifest.figures and version.state == "active":
            done += await _draw_version(connection, version, before, log)
    for study in await studies.listing(connection):
        done += await _draw_study(connection, study, before, log)
    return done


async def _draw_version(
    connection: Connection, version: VersionRow, before: dict[str, int], log: Callable[[str], None]
) -> bool:
    owner = f"version:{version.version_id}"
    made_of = await findings.count_results(connection, version.version_id)
    if not made_of or before.get(owner) == made_of:
        return False
    found = await findings.drawn_results(
        connection, version.version_id, version.manifest, SEEDS_DRAWN_MAX
    )
    if not found:
        return False
    contents: dict[str, bytes] = {}
    for figure in version.manifest.figures:
        contents |= _figure(version.manifest, figure, found)
    async with connection.transaction():
        await drawings.replace(connection, owner, made_of, contents)
    log(f"{version.manifest.ref}: {counted(len(version.manifest.figures), 'figure')} "
        f"of {counted(len(found), 'seed')}")  # fmt: skip
    return True


def _figure(
    manifest: Manifest, figure: Figure, found: Sequence[tuple[int, Result]]
) -> dict[str, bytes]:
    """The numbers behind a figure, and its picture in both themes if they are enough for one."""
    results = [result for _, result in found]

    def into(path: Path, theme: Theme) -> None:
        draw(manifest, results, path, figure.name, dark=theme == "dark")

    lines = (line for seed, result in found for line in values_of(figure, seed, result))
    contents = {f"figure.{figure.name}.csv": _packed_csv(VALUE_COLUMNS, lines)}
    with contextlib.suppress(FigureError):  # these results have nothing to draw
        contents |= {f"figure.{figure.name}.{theme}.png": _picture(into, theme) for theme in THEMES}
    return contents


async def _draw_study(
    connection: Connection, study: StudyRow, before: dict[str, int], log: Callable[[str], None]
) -> bool:
    owner = f"study:{study.study_id}"
    state = (
        await findings.count_results(connection, study.version_id), study.state, study.rounds,
        study.more_seeds, await studies.count_out(connection, study, study.judged),
    )  # fmt: skip
    made_of = zlib.crc32(repr(state).encode())
    if before.get(owner) == made_of:
        return False
    data = await study_reviews.data_of(connection, study)
    async with connection.transaction():
        await drawings.replace(connection, owner, made_of, _study(study, data))
    log(f"study {study.name}: {counted(len(data.cells), 'result')}")
    return True


def _study(study: StudyRow, data: StudyData) -> dict[str, bytes]:
    verdicts = judge_study(data)
    facts = {
        "parameter_sets": len(data.sets), "results": len(data.cells), "out": data.out,
        "first_seed": data.seeds[0], "last_seed": data.seeds[-1], "verdicts": verdicts,
    }  # fmt: skip
    contents = {"facts.json": msgspec.json.encode(facts), "cells.csv": _cells(study, data)}
    for finding, verdict in zip(data.design.findings, verdicts, strict=True):
        numbers = data.numbers(finding)
        contents[f"finding.{finding.name}.csv"] = _packed_csv(("seed", "value"), numbers.items())
        interval = (verdict.low, verdict.estimate, verdict.high)
        for theme in THEMES:
            contents[f"finding.{finding.name}.{theme}.svg"] = _strip(
                finding, list(numbers.values()), interval, theme
            )

    def into(path: Path, theme: Theme) -> None:
        draw_maps(data, path, dark=theme == "dark")

    with contextlib.suppress(FigureError):  # it declares no map, or there is nothing to draw yet
        contents |= {f"map.{theme}.png": _picture(into, theme) for theme in THEMES}
    return contents


def number_text(finding: StudyFinding) -> str:
    """What the criterion of a study's finding is held against, in words."""
    if finding.kind == "contrast":
        return f"{finding.field}: where high, less where low"
    if finding.kind == "trend":
        return f"slope of {finding.field} against {finding.along}"
    return f"slope of the boundary of {finding.field} against {finding.over}"


def _strip(
    finding: StudyFinding, numbers: Sequence[float],
    interval: tuple[float | None, float | None, float | None], theme: Theme,
) -> bytes:  # fmt: skip
    """Every seed's number against the criterion."""
    low, mean, high = interval
    known = None if low is None or mean is None or high is None else (low, mean, high)
    strip = Strip(label=number_text(finding), rows=[("", numbers, False)])
    title = f"{counted(len(numbers), 'seed')}, criterion: {criterion_text(finding.criterion)}"
    drawn = chart.seeds_chart(title, strip, finding.criterion, known, None, theme)
    return drawn.encode()


def _cells(study: StudyRow, data: StudyData) -> bytes:
    axes, fields = list(study.design.axes), sorted(data.cells[0].values) if data.cells else []
    lines = (
        [cell.position, cell.seed, *(data.sets[cell.position][a] for a in axes),
         *(cell.values[f] for f in fields)]
        for cell in data.cells[:CELLS_MAX]
    )  # fmt: skip
    return _packed_csv(("position", "seed", *axes, *fields), lines)


def _packed_csv(columns: Sequence[str], lines: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return gzip.compress(text.getvalue().encode(), 5, mtime=0)


def _picture(draw_into: Callable[[Path, Theme], None], theme: Theme) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        draw_into(path, theme)
        return path.read_bytes()
