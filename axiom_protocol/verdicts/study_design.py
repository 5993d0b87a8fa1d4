"""A study: one experiment with many parameter sets, and claims about how its numbers vary.

It is declared as a TOML file before the data. Each seed is run with every parameter set, so that
one seed gives a whole map. A finding is one number of that map: a contrast between two of its
parts, the slope of a trend, or the slope of a boundary.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import tomllib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from axiom_protocol.manifest import (
    Criterion,
    Manifest,
    ManifestError,
    Name,
    Parameters,
    Scalar,
    Text,
)

SETS_MAX = 10_000  # parameter sets of one study
STUDY_BYTES_MAX = 1_000_000  # of its file
SEEDS_MAX = 10_000

Scale = Literal["linear", "log"]


class StudyError(ValueError):
    """The study's file is wrong; the message says what to change."""


class _Table(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file. Unknown keys are refused by name."""


class Axis(_Table, frozen=True, kw_only=True):
    """The values of one parameter, and the scale on which slopes and midpoints are computed."""

    values: Annotated[list[Scalar], Meta(min_length=1, max_length=1000)]
    scale: Scale = "linear"


class StudyFinding(_Table, frozen=True, kw_only=True):
    """A claim about the map of one seed, as one number of it.

    kind       contrast: mean of ``field`` where ``high`` holds, minus its mean where ``low`` holds;
               trend: slope of ``field`` against the axis ``along``, averaged over other axes;
               boundary: slope, against the axis ``over``, of the place on the axis ``along`` where
               ``field`` crosses ``level``; without a crossing, of the end of the axis
    where      parameter values of the sets that are used; without it, all sets
    criterion  condition on the mean over seeds; ``min_share`` of seeds must each meet it
    """

    name: Name
    claim: Text
    kind: Literal["contrast", "trend", "boundary"]
    field: str
    along: str = ""
    over: str = ""
    level: float = 0.0
    high: Parameters = {}
    low: Parameters = {}
    where: Parameters = {}
    criterion: Criterion
    min_share: Annotated[float, Meta(ge=0, le=1)] = 0.9


class Refinement(_Table, frozen=True, kw_only=True):
    """Halve the grid's spacing along a boundary, ``rounds`` times, where the pilot seeds show it.

    Pilot seeds are used for nothing else, so that the parameter sets are not chosen by the seeds
    that the findings are judged by.
    """

    finding: Name
    rounds: Annotated[int, Meta(ge=1, le=8)] = 1
    pilot_seeds: Annotated[int, Meta(ge=1, le=100)] = 2


class StudyMap(_Table, frozen=True, kw_only=True):
    """A picture of one field, as colour over two axes; boundaries of it are drawn as lines."""

    name: Name
    title: Text
    x: str
    y: str
    field: str
    x_label: str = ""
    y_label: str = ""
    label: str = ""


class StudyDesign(_Table, frozen=True, kw_only=True):
    """The whole file: a number of ``seeds``, each with every parameter set of the grid ``axes``."""

    name: Name
    experiment: Name
    question: Text
    seeds: Annotated[int, Meta(ge=1, le=SEEDS_MAX)]
    budget_seconds: Annotated[float, Meta(gt=0)] | None = None
    axes: dict[Name, Axis]
    fixed: Parameters = {}
    findings: list[StudyFinding] = []
    refine: Refinement | None = None
    maps: list[StudyMap] = []

    @property
    def pilot_seeds(self) -> int:
        """Seeds that choose parameter sets and are not judged."""
        return self.refine.pilot_seeds if self.refine else 0

    @property
    def grid_size(self) -> int:
        """How many parameter sets the axes span."""
        return math.prod(len(axis.values) for axis in self.axes.values())

    @property
    def digest(self) -> str:
        """SHA-256 of the declaration, independent of the file's layout and comments."""
        encoded = msgspec.json.encode(self, order="deterministic")
        return hashlib.sha256(encoded).hexdigest()

    def finding(self, name: str) -> StudyFinding:
        """The finding of that name. Raises KeyError."""
        return {f.name: f for f in self.findings}[name]

    def coordinate(self, axis: str, value: Any) -> float:
        """A parameter's coordinate on its axis: its base-10 logarithm if the scale is log."""
        return math.log10(value) if self.axes[axis].scale == "log" else float(value)

    def sets(self) -> list[Parameters]:
        """Every parameter set of the grid, as given, in the order of the axes."""
        names = list(self.axes)
        grid = itertools.product(*(self.axes[name].values for name in names))
        return [{**self.fixed, **dict(zip(names, values, strict=True))} for values in grid]


def read_study(text: str) -> StudyDesign:
    """Read a study's file. Raises StudyError."""
    try:
        table = tomllib.loads(text)
        return msgspec.convert(table, StudyDesign)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:  # 5,000 digits too
        raise StudyError(f"the study's file: {error}") from None


def check(design: StudyDesign, manifest: Manifest) -> None:
    """Raise StudyError if the study does not fit the experiment's metadata."""
    if design.grid_size > SETS_MAX:
        raise StudyError(f"more than {SETS_MAX} parameter sets; use fewer values")
    try:
        for parameters in design.sets():
            manifest.resolve(parameters)
    except ManifestError as error:
        raise StudyError(str(error)) from None
    for name, axis in design.axes.items():
        _check_axis(name, axis)
    for finding in design.findings:
        _check_finding(design, manifest, finding)
    for drawn in design.maps:
        _check_field(manifest, f"map {drawn.name!r}", drawn.field)
        _check_axes(design, f"map {drawn.name!r}", drawn.x, drawn.y)
    _check_refinement(design)


def _check_axis(name: str, axis: Axis) -> None:
    if len(set(axis.values)) < len(axis.values):
        raise StudyError(f"axis {name!r} has a value twice")
    numbers = all(_is_number(value) for value in axis.values)
    if axis.scale == "log" and not (numbers and min(axis.values) > 0):  # type: ignore[operator]
        raise StudyError(f"axis {name!r}: a log scale needs numbers above 0")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_finding(design: StudyDesign, manifest: Manifest, finding: StudyFinding) -> None:
    where = f"finding {finding.name!r}"
    _check_field(manifest, where, finding.field)
    if finding.criterion.above is None and finding.criterion.below is None:
        raise StudyError(f"{where}: the criterion needs above, below or both")
    if finding.kind == "contrast":
        if not finding.high or not finding.low:
            raise StudyError(f"{where}: a contrast needs the tables high and low")
        _check_axes(design, where, *finding.high, *finding.low, numeric=False)
    elif finding.kind == "trend":
        _check_axes(design, where, finding.along)
    else:
        _check_axes(design, where, finding.along, finding.over)
    _check_axes(design, where, *finding.where, numeric=False)


def _check_axes(design: StudyDesign, where: str, *names: str, numeric: bool = True) -> None:
    for name in names:
        axis = design.axes.get(name)
        if axis is None:
            raise StudyError(f"{where}: there is no axis {name!r}; it has {', '.join(design.axes)}")
        if numeric and not all(_is_number(value) for value in axis.values):
            raise StudyError(f"{where}: the values of {name!r} are not numbers")
        if numeric and len(axis.values) < 2:
            raise StudyError(f"{where}: the axis {name!r} has one value; give two or more")


def _check_field(manifest: Manifest, where: str, name: str) -> None:
    field = manifest.result.get(name)
    if field is None or field.kind == "records" or field.dims:
        raise StudyError(f"{where}: {name!r} is not a single number of the result")


def _check_refinement(design: StudyDesign) -> None:
    if design.refine is None:
        return
    kinds = {f.name: f.kind for f in design.findings}
    if kinds.get(design.refine.finding) != "boundary":
        raise StudyError(f"[refine]: {design.refine.finding!r} is not a finding of kind boundary")
