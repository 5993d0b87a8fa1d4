"""Draws an experiment's declared figures from one result or several.

Used by ``axiom-client try FILE --plot out.png`` and by the server's pages. matplotlib is imported
only when a figure is drawn; it comes with the extra ``[plot]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axiom_protocol.manifest import Figure, Manifest
from axiom_protocol.result import Result

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

PANEL_INCHES = (9.0, 4.9)  # of one figure; several are stacked. 900 px wide on screen
DOTS_PER_INCH = 150  # sharp on a dense screen
NEEDS_MATPLOTLIB = "drawing needs matplotlib: pip install 'axiom-client[plot]'"
DOTTED_MAX = 20  # largest number of points in a line that get markers

#: Okabe & Ito 2008, distinguishable with any colour vision; black is reserved for reference lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6D31")


@dataclass(frozen=True, kw_only=True)
class Shades:
    """The colours of text and axes, of the footer and frame, of the grid, and of the paper."""

    ink: str
    grey: str
    grid: str
    paper: str


LIGHT = Shades(ink="#222222", grey="#8A8A8A", grid="#E6E6E6", paper="#FFFFFF")
DARK = Shades(ink="#E8E8E6", grey="#9A9A96", grid="#333330", paper="#181816")  # as the pages'


class FigureError(ValueError):
    """A figure cannot be drawn; the message says why."""


@dataclass(frozen=True)
class Series:
    """One line, or one set of points or bars, of one result. ``path`` indexes the figure's y."""

    path: int
    label: str
    x: Array
    y: Array


def draw(
    manifest: Manifest, results: list[Result], path: str | Path, name: str | None = None,
    *, dark: bool = False,
) -> None:  # fmt: skip
    """Draw the figure ``name``, or all that the manifest declares, into one image file.

    results  checked results of the manifest. Those with ``valid`` 0 are left out, unless there are
             no others. Several are drawn as means, with a band of one standard deviation.
    path     its suffix sets the format: .png, .svg, .pdf
    dark     light lines on dark paper

    Raises FigureError when the manifest declares no such figure, there is no result, a figure
    has no value or none above zero for a log axis, or matplotlib is not installed.
    """
    figures = [f for f in manifest.figures if name in (None, f.name)]
    if not figures:
        known = ", ".join(f.name for f in manifest.figures) or "none"
        raise FigureError(f"{manifest.ref} declares no figure {name!r}; it has: {known}")
    if not results:
        raise FigureError("there is no result to draw")
    try:
        import matplotlib
        from matplotlib.figure import Figure as Sheet
    except ImportError as error:
        raise FigureError(NEEDS_MATPLOTLIB) from error

    passed = [r for r in results if r["valid"]] or results
    for figure in figures:
        _check_values(figure, passed)
    with matplotlib.rc_context(style(dark=dark)):
        width, height = PANEL_INCHES
        sheet = Sheet(figsize=(width, height * len(figures)), layout="constrained")
        panels = sheet.subfigures(len(figures), 1, squeeze=False)[:, 0]
        for panel, figure in zip(panels, figures, strict=True):
            _draw_panel(panel.add_subplot(), figure, passed)
        sheet.supxlabel(_footer(manifest, passed), fontsize=9, color=grey(), x=0.99, ha="right")
        sheet.savefig(path, dpi=DOTS_PER_INCH)


def _check_values(figure: Figure, results: list[Result]) -> None:
    """Raise FigureError for a figure without values, or a log axis without any above zero."""
    rows = [row for i, result in enumerate(results) for row in values_of(figure, i, result)]
    if not rows:
        raise FigureError(f"figure {figure.name!r} has nothing to draw: its lists are empty")
    if figure.y_scale == "log" and not any(row[VALUE_COLUMNS.index("y")] > 0 for row in rows):
        raise FigureError(f"figure {figure.name!r} has a log axis and no value above zero")


def style(*, dark: bool = False) -> Any:
    """What all pictures look like, as matplotlib's parameters."""
    shades = DARK if dark else LIGHT
    return {
        "figure.facecolor": shades.paper,
        "savefig.facecolor": shades.paper,
        "axes.facecolor": shades.paper,
        "legend.labelcolor": shades.ink,
        "font.family": "sans-serif",
        "font.size": 12,
        "text.color": shades.ink,
        "text.parse_math": False,  # a "$" in a title is a dollar sign; log axes get plain labels
        "axes.labelcolor": shades.ink,
        "axes.edgecolor": shades.grey,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": shades.grid,
        "grid.linewidth": 0.8,
        "xtick.color": shades.ink,
        "ytick.color": shades.ink,
        "legend.frameon": False,
        "legend.fontsize": 11,
        "figure.constrained_layout.h_pad": 0.12,
    }


def _ink() -> str:
    """The colour of text, of the style in force."""
    import matplotlib

    return str(matplotlib.rcParams["text.color"])


def grey() -> str:
    """The colour of frames and of footers, of the style in force."""
    import matplotlib

    return str(matplotlib.rcParams["axes.edgecolor"])


def _footer(manifest: Manifest, results: list[Result]) -> str:
    if not results[0]["valid"]:
        return f"{manifest.ref}: failed its own sanity checks"
    seeds = "one result" if len(results) == 1 else f"mean of {len(results)} results, band: 1 sd"
    return f"{manifest.ref}, {seeds}"


def _draw_panel(axes: Axes, figure: Figure, results: list[Result]) -> None:
    axes.set_title(figure.title, loc="left", fontsize=13.5, fontweight="bold", pad=12, wrap=True)
    if figure.kind == "map":
        _map(axes, figure, results)
    elif figure.kind == "bars":
        _bars(axes, figure, results)
    else:
        _curves(axes, figure, results)


# ---------------------------------------------------------------- from results to series


def series_of(figure: Figure, result: Result) -> list[Series]:
    """The series of one result, ordered by the figure's y and then by record."""
    return [series for i in range(len(figure.y)) for series in _series_of_path(figure, i, result)]


def _series_of_path(figure: Figure, i: int, result: Result) -> Iterator[Series]:
    import numpy as np

    head, _, tail = figure.y[i].partition(".")
    if not tail:  # a field of the result, not of records
        x = np.atleast_1d(np.asarray(_look_up(figure.x, result, None), dtype=float))
        y = np.atleast_1d(np.asarray(result[head], dtype=float))
        yield Series(i, _legend(figure, i), x, y)
        return
    found = []
    for record in result[head]:
        x = np.atleast_1d(np.asarray(_look_up(figure.x, result, record), dtype=float))
        y = np.atleast_1d(np.asarray(record[tail], dtype=float))
        label = figure.label.format(**record) if figure.label else ""
        found.append(Series(i, label, x, y))
    if found and all(len(s.y) == 1 for s in found) and figure.kind != "bars":
        yield from _joined(found)  # one point per record: records with one label form a series
    else:
        yield from found


def _look_up(path: str, result: Result, record: dict[str, Any] | None) -> Any:
    head, _, tail = path.partition(".")
    if not tail:
        return result[head]
    return record[tail] if record is not None else [r[tail] for r in result[head]]


def _joined(found: list[Series]) -> Iterator[Series]:
    import numpy as np

    for label, same in groupby(sorted(found, key=lambda s: s.label), key=lambda s: s.label):
        points = sorted((float(s.x[0]), float(s.y[0])) for s in same)
        x, y = np.array(points).T
        yield Series(found[0].path, label, x, y)


def _legend(figure: Figure, i: int) -> str:
    return figure.legend[i] if i < len(figure.legend) else figure.y[i].rpartition(".")[2]


def _over_results(figure: Figure, results: list[Result]) -> list[list[Series]]:
    """For each series, its instances from all results; a result that ended early has fewer."""
    each = [series_of(figure, result) for result in results]
    columns: dict[tuple[int, str, int], list[Series]] = {}
    for all_series in each:
        seen: dict[tuple[int, str], int] = {}
        for series in all_series:
            count = seen[series.path, series.label] = seen.get((series.path, series.label), -1) + 1
            columns.setdefault((series.path, series.label, count), []).append(series)
    return [columns[key] for key in sorted(columns, key=lambda k: k[0])]


#: Columns of the numbers behind a figure.
VALUE_COLUMNS = ("seed", "y_path", "label", "x", "y", "z")


def values_of(figure: Figure, seed: int, result: Result) -> Iterator[tuple[Any, ...]]:
    """The numbers that one result adds to a figure, as rows of VALUE_COLUMNS."""
    if figure.kind == "map" and figure.z is not None:
        columns = (_flat(path, result) for path in (figure.x, figure.y[0], figure.z))
        for x, y, z in zip(*columns, strict=True):
            yield seed, figure.y[0], "", x, y, z
        return
    for series in series_of(figure, result):
        for x, y in zip(series.x.tolist(), series.y.tolist(), strict=False):
            yield seed, figure.y[series.path], series.label, x, y, None


# ---------------------------------------------------------------- kinds of figure


def _curves(axes: Axes, figure: Figure, results: list[Result]) -> None:
    columns = _over_results(figure, results)
    by_path = len(figure.y) > 1 and any("." in y for y in figure.y)
    shades = _shades(len(columns))
    dotted = all(
        len(column[0].x) <= DOTTED_MAX for column in columns
    )  # all lines get markers, or none
    named: set[str] = set()
    for i, column in enumerate(columns):
        path = column[0].path
        label = _legend(figure, path) if by_path else column[0].label
        colour = COLOURS[path % len(COLOURS)] if by_path else shades[i]
        line = {"color": colour, "linewidth": 1.4 if by_path else 2.0}
        line |= {"marker": "o", "markersize": 4.5} if dotted else {}
        _curve(axes, figure, column, line, "" if label in named else label)
        named.add(label)
    _scales_and_marks(axes, figure)
    axes.set_xlabel(figure.x_label or figure.x.rpartition(".")[2])
    axes.set_ylabel(figure.y_label or ("" if by_path else _legend(figure, 0)))
    if any(named) and (len(columns) > 1 or figure.label):
        many = len(named) > 6
        axes.legend(
            loc="center left" if many else "best", bbox_to_anchor=(1.0, 0.5) if many else None
        )


def _shades(count: int) -> list[Any]:
    """Colours for lines: distinct for up to four, else an ordered colour map, as for a sweep."""
    if count <= 4:
        return list(COLOURS[:count])
    import matplotlib

    sweep = matplotlib.colormaps["viridis"]
    on_dark = matplotlib.rcParams["figure.facecolor"] == DARK.paper
    first = 0.25 if on_dark else 0.0  # its darkest colours cannot be seen on dark paper
    return [sweep(first + (0.92 - 0.92 * first) * i / (count - 1)) for i in range(count)]


def _curve(
    axes: Axes, figure: Figure, column: list[Series], style: dict[str, Any], label: str
) -> None:
    import numpy as np

    if figure.kind == "points":
        style = style | {"linestyle": "none", "marker": "o", "markersize": 6, "alpha": 0.85}
    first = column[0]
    same_x = all(s.x.shape == first.x.shape and np.allclose(s.x, first.x) for s in column)
    if not same_x:  # the x values differ between results, so a mean is not defined: draw each
        for i, s in enumerate(column):
            axes.plot(s.x, s.y, label="" if i else label, **(style | {"alpha": 0.4}))
        return
    y = np.stack([s.y for s in column])
    mean, spread = y.mean(axis=0), y.std(axis=0, ddof=1) if len(y) > 1 else None
    axes.plot(first.x, mean, label=label, **style)
    if spread is not None:
        low = mean - spread
        if figure.y_scale == "log":
            low = np.where(low > 0, low, y.min(axis=0))  # a log axis cannot show values below zero
        shade = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
        axes.fill_between(first.x, low, mean + spread, **shade)


def _bars(axes: Axes, figure: Figure, results: list[Result]) -> None:
    """Horizontal bars: a row per record, a colour per y; error bars are 1 sd over results."""
    import numpy as np

    columns = _over_results(figure, results)
    paths = sorted({column[0].path for column in columns})
    per_record = any("." in y for y in figure.y)
    groups = [[c for c in columns if c[0].path == path] for path in paths]
    if not per_record:  # fields of the result: one row for each
        groups = [columns]
    height = 0.8 / len(groups)
    for g, group in enumerate(groups):
        values = [np.array([s.y[0] for s in column]) for column in group]
        whiskers = [v.std(ddof=1) if len(v) > 1 else 0.0 for v in values]
        axes.barh(
            np.arange(len(group)) + (g - (len(groups) - 1) / 2) * height,
            [v.mean() for v in values],
            height * 0.92,
            xerr=whiskers if any(whiskers) else None,
            color=COLOURS[g % len(COLOURS)],
            error_kw={"ecolor": _ink(), "elinewidth": 1.0},
            label=_legend(figure, paths[g]) if per_record else None,
        )
    _bar_axes(axes, figure, [c[0].label or f"{c[0].x[0]:g}" for c in groups[0]])
    if per_record and len(groups) > 1:  # outside, because bars fill the panel
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _bar_axes(axes: Axes, figure: Figure, names: list[str]) -> None:
    """Name the rows, scale the value axis and draw the reference lines."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    if figure.y_scale == "log":
        axes.set_xscale("log", nonpositive="clip")
        label_decades(axes.xaxis)
    axes.set_xlabel(figure.y_label)
    axes.set_ylabel(figure.x_label)
    for mark in (*figure.y_mark, *([0.0] if figure.y_scale == "linear" else [])):
        axes.axvline(mark, color=_ink(), linewidth=1.0)


def _map(axes: Axes, figure: Figure, results: list[Result]) -> None:
    """Colour over a plane: cells if the records fill a grid, otherwise dots."""
    import numpy as np

    if figure.z is None:
        raise FigureError(f"figure {figure.name!r} is a map and needs z")
    cells: dict[tuple[float, float], list[float]] = {}
    for result in results:
        columns = (_flat(path, result) for path in (figure.x, figure.y[0], figure.z))
        for x, y, z in zip(*columns, strict=True):
            cells.setdefault((x, y), []).append(z)
    xs, ys = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    axes.grid(visible=False)
    if len(xs) * len(ys) == len(cells) and min(len(xs), len(ys)) > 1:
        grid = np.array([[np.mean(cells[x, y]) for x in xs] for y in ys])
        edges = _edges(xs, figure.x_scale), _edges(ys, figure.y_scale)
        picture: Any = axes.pcolormesh(*edges, grid, cmap="cividis", edgecolors="white", lw=0.6)
    else:
        points = np.array(sorted(cells))
        values = [float(np.mean(cells[x, y])) for x, y in points]
        picture = axes.scatter(
            points[:, 0], points[:, 1], c=values, cmap="cividis", s=90, edgecolors="white"
        )
    bar = axes.figure.colorbar(picture, ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(figure.z_label or figure.z.rpartition(".")[2])
    _scales_and_marks(axes, figure)
    _tick_at(axes.xaxis, xs)
    _tick_at(axes.yaxis, ys)
    axes.set_xlabel(figure.x_label or figure.x.rpartition(".")[2])
    axes.set_ylabel(figure.y_label or _legend(figure, 0))


def _flat(path: str, result: Result) -> list[float]:
    import numpy as np

    return [float(v) for v in np.ravel(_look_up(path, result, None))]


def _edges(centres: list[float], scale: str) -> Array:
    """Cell borders half way between centres, on the axis' own scale."""
    import numpy as np

    c = np.log(centres) if scale == "log" else np.asarray(centres)
    inner = (c[1:] + c[:-1]) / 2
    edges = np.concatenate([[2 * c[0] - inner[0]], inner, [2 * c[-1] - inner[-1]]])
    return np.exp(edges) if scale == "log" else edges


def _scales_and_marks(axes: Axes, figure: Figure) -> None:
    for x in figure.x_mark:
        axes.axvline(x, color=_ink(), linewidth=1.2, linestyle="--", zorder=1.5)
    for y in figure.y_mark:
        axes.axhline(y, color=_ink(), linewidth=1.2, linestyle="--", zorder=1.5)
    axes.margins(x=0.02)
    if figure.x_scale == "log":
        axes.set_xscale("log", nonpositive="mask")
        label_decades(axes.xaxis)
    if figure.y_scale == "log":
        axes.set_yscale("log", nonpositive="mask")
        label_decades(axes.yaxis)


def label_decades(axis: Axis) -> None:
    """Plain numbers on a log axis: decades, or 1, 2 and 5 of each when there are few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    subdivisions = (1.0,) if high > 100 * low else (1.0, 2.0, 5.0) if high > 5 * low else None
    if subdivisions is None:  # less than one decade: all multiples
        axis.set_major_locator(LogLocator(subs=range(1, 10)))
    else:
        axis.set_major_locator(LogLocator(subs=subdivisions, numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _tick_at(axis: Axis, values: list[float]) -> None:
    """Put a tick at each value if there are few."""
    if len(values) <= 8:
        axis.set_ticks(values, [f"{value:g}" for value in values])
        axis.set_ticks([], minor=True)
