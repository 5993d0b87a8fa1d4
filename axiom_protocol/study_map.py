"""Draws a study's maps: a field as colour over two axes, with its boundaries as lines.

matplotlib is imported only when a map is drawn; it comes with the extras ``[plot]`` and
``[server]``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from axiom_protocol import figure
from axiom_protocol.verdicts.study_design import StudyFinding, StudyMap
from axiom_protocol.verdicts.study_numbers import crossings
from axiom_protocol.verdicts.study_verdicts import StudyData

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Columns = dict[float, list[tuple[float, float]]]


def draw_maps(data: StudyData, path: str | Path, *, dark: bool = False) -> None:
    """Draw all declared maps into one file; its suffix sets the format.

    Raises FigureError when the study declares none, has no result, or matplotlib is missing.
    """
    if not data.design.maps or not data.cells:
        what = "declares no map" if not data.design.maps else "has no result yet"
        raise figure.FigureError(f"the study {data.design.name} {what}")
    try:
        import matplotlib
        from matplotlib.figure import Figure as Sheet
    except ImportError as error:
        raise figure.FigureError(figure.NEEDS_MATPLOTLIB) from error
    count = len(data.design.maps)
    with matplotlib.rc_context(figure.style(dark=dark)):
        width, height = figure.PANEL_INCHES
        sheet = Sheet(figsize=(width, height * count), layout="constrained")
        for i, drawn in enumerate(data.design.maps):
            _draw(sheet.add_subplot(count, 1, i + 1), data, drawn)
        sheet.supxlabel(_footer(data), fontsize=9, color=figure.grey(), x=0.99, ha="right")
        sheet.savefig(path, dpi=figure.DOTS_PER_INCH)


def means(data: StudyData, field: str) -> list[float | None]:
    """The field's mean over the seeds, by the position of the parameter set."""
    found: dict[int, list[float]] = {}
    for cell in data.cells:
        found.setdefault(cell.position, []).append(cell.values[field])
    return [float(np.mean(found[i])) if i in found else None for i in range(len(data.sets))]


def _footer(data: StudyData) -> str:
    seeds = len({cell.seed for cell in data.cells})
    return (
        f"{data.design.name} ({data.manifest.ref}): {len(data.cells)} workunits, "
        f"{len(data.sets)} parameter sets, {seeds} seeds"
    )


def _draw(axes: Axes, data: StudyData, drawn: StudyMap) -> None:
    axes.set_title(drawn.title, loc="left", fontsize=13.5, fontweight="bold", pad=12, wrap=True)
    axes.grid(visible=False)
    columns = _columns(data, drawn)
    colours = _patches(axes, data, drawn, columns)
    bar = axes.figure.colorbar(colours, ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(drawn.label or drawn.field)
    for finding in data.design.findings:
        if finding.kind == "boundary" and finding.field == drawn.field:
            _boundary(axes, data, drawn, finding)
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if data.design.axes[getattr(drawn, name)].scale == "log":
            getattr(axes, f"set_{name}scale")("log")
            figure.label_decades(axis)
    axes.set_xlabel(drawn.x_label or drawn.x)
    axes.set_ylabel(drawn.y_label or drawn.y)


def _columns(data: StudyData, drawn: StudyMap) -> Columns:
    """(y, mean) of the parameter sets by x, on the scales of the axes; other axes are averaged."""
    found: dict[tuple[float, float], list[float]] = {}
    for parameters, mean in zip(data.sets, means(data, drawn.field), strict=True):
        if mean is not None:
            x, y = (data.design.coordinate(a, parameters[a]) for a in (drawn.x, drawn.y))
            found.setdefault((x, y), []).append(mean)
    columns: Columns = {}
    for (x, y), values in sorted(found.items()):
        columns.setdefault(x, []).append((y, float(np.mean(values))))
    return columns


def _patches(axes: Axes, data: StudyData, drawn: StudyMap, columns: Columns) -> Any:
    """One rectangle for each parameter set; those of a refined column are less high."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    values = [v for column in columns.values() for _, v in column]
    norm = Normalize(min(values), max(values))
    edges = _edges(sorted(columns))
    for (_, column), (left, right) in zip(
        sorted(columns.items()), itertools.pairwise(edges), strict=True
    ):
        heights = _edges([y for y, _ in column])
        corners = [_value(data, drawn.x, e) for e in (left, right)]
        rows = [_value(data, drawn.y, e) for e in heights]
        axes.pcolormesh(corners, rows, [[v] for _, v in column], cmap="cividis", norm=norm)
    return ScalarMappable(norm=norm, cmap="cividis")


def _edges(centres: list[float]) -> list[float]:
    """Borders half way between centres; a single centre gets half a unit on each side."""
    if len(centres) == 1:
        return [centres[0] - 0.5, centres[0] + 0.5]
    inner = [(a + b) / 2 for a, b in itertools.pairwise(centres)]
    return [2 * centres[0] - inner[0], *inner, 2 * centres[-1] - inner[-1]]


def _value(data: StudyData, axis: str, coordinate: float) -> float:
    return float(10.0**coordinate) if data.design.axes[axis].scale == "log" else coordinate


def _boundary(axes: Axes, data: StudyData, drawn: StudyMap, finding: StudyFinding) -> None:
    """Each seed's boundary as a thin line, and the mean over seeds as a thick one."""
    if {finding.along, finding.over} != {drawn.x, drawn.y}:
        return
    lines = [
        np.array(crossings(data.design, finding, data.sets, _reader(one)))
        for one in data.maps(finding.field).values()
        if None not in one
    ]
    swapped = finding.over == drawn.y
    for line in lines:
        axes.plot(*_on_axes(data, drawn, line, swapped), color="white", lw=0.6, alpha=0.35)
    if lines:
        mean = np.mean(lines, axis=0)
        label = f"{finding.name}, mean of {len(lines)} seeds"
        axes.plot(*_on_axes(data, drawn, mean, swapped), color="#D55E00", lw=2.2, label=label)
        axes.legend(loc="upper right", framealpha=0.85, frameon=True)


def _on_axes(data: StudyData, drawn: StudyMap, line: Any, swapped: bool) -> list[list[float]]:
    x, y = (line[:, 1], line[:, 0]) if swapped else (line[:, 0], line[:, 1])
    return [[_value(data, drawn.x, v) for v in x], [_value(data, drawn.y, v) for v in y]]


def _reader(one: list[float | None]) -> Callable[[int], float]:
    return lambda i: one[i] or 0.0
