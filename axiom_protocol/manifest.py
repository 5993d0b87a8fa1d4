"""An experiment's metadata: question, parameters, resources, result schema, findings, figures.

The metadata is the PEP 723 block at the top of the experiment's single file. It declares, before
there is data, what may be varied, what a run may use, the form of a result, and the claims that
will be tested on the results.
"""

from __future__ import annotations

import math
import re
import reprlib
import tomllib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

MANIFEST_BYTES_MAX = 256 * 1024  # more is a mistake or an attack
SCRIPT_BYTES_MAX = 1024 * 1024  # size of one experiment file

#: PEP 723's reference pattern, for the block type ``script``.
_BLOCK = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")

# "$(?!\n)" because "$" alone also matches before a final line feed; [0-9] because \d matches other
# scripts' digits too.
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$(?!\n)")]
Version = Annotated[str, Meta(pattern=r"^[0-9]{1,5}\.[0-9]{1,5}\.[0-9]{1,5}$(?!\n)")]
Text = Annotated[str, Meta(min_length=1, max_length=4000)]
INTEGER_MAX = 2**53  # JSON readers disagree on larger values
NUMBER_MAX = 1e300  # excludes infinity and huge integers; comparing with NaN is false
COHORT_MAX = 256  # seeds in one process
Scalar = bool | int | float | str
Parameters = dict[str, Any]

#: Fields of every result: whether the run passed its own checks, how many configurations ran.
REQUIRED_FIELDS = ("valid", "configs_done")


class ManifestError(ValueError):
    """The metadata is missing or wrong; the message says what to change."""


class _Table(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the metadata. Unknown keys are refused by name."""


class Resources(_Table, frozen=True, kw_only=True):
    """What one run may use. The sandbox enforces every limit.

    gpu_share  share of one GPU's time; with 0.5, two such tasks may share a GPU, each with its own
               gpu_memory_bytes
    """

    cpu_cores: Annotated[int, Meta(ge=1, le=1024)] = 1
    gpus: Annotated[int, Meta(ge=0, le=16)] = 0
    gpu_share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    gpu_memory_bytes: Annotated[int, Meta(ge=0)] = 0
    memory_bytes: Annotated[int, Meta(ge=16_000_000, le=1 << 44)] = 1_000_000_000
    disk_bytes: Annotated[int, Meta(ge=0, le=1 << 44)] = 10_000_000


class Cohort(_Table, frozen=True, kw_only=True):
    """How many seeds ``run_cohort(tasks)`` computes in one process.

    most                   largest number of seeds on one GPU
    most_on_core           largest number of seeds on the cores of one task; 1: one process a seed
    seed_memory_bytes      what each further seed adds to ``Resources.memory_bytes``
    seed_gpu_memory_bytes  what each further seed adds to ``Resources.gpu_memory_bytes``
    """

    most: Annotated[int, Meta(ge=1, le=COHORT_MAX)]
    most_on_core: Annotated[int, Meta(ge=1, le=COHORT_MAX)] = 1
    seed_memory_bytes: Annotated[int, Meta(ge=0, le=1 << 40)] = 50_000_000
    seed_gpu_memory_bytes: Annotated[int, Meta(ge=0, le=1 << 40)] = 50_000_000

    def needs(self, one: Resources, seeds: int) -> Resources:
        """The resources of a cohort, from those of one seed."""
        more = seeds - 1
        return msgspec.structs.replace(
            one,
            memory_bytes=one.memory_bytes + more * self.seed_memory_bytes,
            gpu_memory_bytes=one.gpu_memory_bytes + more * self.seed_gpu_memory_bytes,
            disk_bytes=seeds * one.disk_bytes,
        )


class Parameter(_Table, frozen=True, kw_only=True):
    """One parameter that a workunit may set, and the values that it may have.

    A number has ``min`` and ``max``. A text has ``choices``; without them only its default is
    allowed, so that a server cannot pass any other text to a script. A bool needs neither. When the
    default is a list, the bounds apply to each item, and ``max_items`` to the list.
    """

    default: Scalar | list[Scalar]
    min: int | float | None = None
    max: int | float | None = None
    choices: list[Scalar] | None = None
    max_items: Annotated[int, Meta(ge=1, le=1000)] = 100
    about: str = ""

    def refusal(self, value: object) -> str | None:
        """Why ``value`` is not allowed, or None when it is."""
        if isinstance(self.default, list):
            if not isinstance(value, list) or not 1 <= len(value) <= self.max_items:
                return f"must be a list of 1 to {self.max_items} items"
            template = self.default[0]
            return next((why for v in value if (why := self._item_refusal(template, v))), None)
        return self._item_refusal(self.default, value)

    def _item_refusal(self, template: Scalar, value: object) -> str | None:
        if isinstance(template, bool):
            return None if isinstance(value, bool) else "must be true or false"
        if isinstance(template, str):
            fits = isinstance(value, str)
        elif isinstance(template, int):
            fits = isinstance(value, int) and not isinstance(value, bool)
            fits = fits and abs(value) <= INTEGER_MAX  # type: ignore[arg-type]
        else:
            fits = isinstance(value, (int, float)) and not isinstance(value, bool)
            fits = fits and abs(value) <= NUMBER_MAX  # type: ignore[arg-type]
        if not fits:
            return f"must be {_KIND_NAMES[type(template)]}"
        choices = self._choices()
        if choices is not None and value not in choices:
            return f"must be one of {', '.join(map(str, choices))}"
        if self.min is not None and value < self.min:  # type: ignore[operator]
            return f"must be at least {self.min}"
        if self.max is not None and value > self.max:  # type: ignore[operator]
            return f"must be at most {self.max}"
        return None

    def _choices(self) -> list[Scalar] | None:
        values = self.default if isinstance(self.default, list) else [self.default]
        texts = all(isinstance(value, str) for value in values)
        return values if self.choices is None and texts else self.choices


_KIND_NAMES = {int: "a whole number", float: "a finite number", str: "a text"}


class Field(_Table, frozen=True, kw_only=True):
    """One field of a result.

    kind        number (finite float), integer, flag (0 or 1), or records (tables of ``fields``)
    dims        how deep lists are nested: 0 a number, 1 a list, 2 a list of lists
    min, max    bounds of every number in it, inclusive
    rtol, atol  how much results for one seed may differ between hosts:
                |a - b| <= atol + rtol * max(|a|, |b|)
    chaotic     true: differs between hosts by its nature, so it is not compared, unless a finding
                reads it and it declares a tolerance
    """

    kind: Literal["number", "integer", "flag", "records"] = "number"
    dims: Annotated[int, Meta(ge=0, le=3)] = 0
    unit: str = "1"
    min: float | None = None
    max: float | None = None
    rtol: Annotated[float, Meta(ge=0)] = 0.0
    atol: Annotated[float, Meta(ge=0)] = 0.0
    chaotic: bool = False
    max_items: Annotated[int, Meta(ge=1, le=100_000)] = 10_000
    about: str = ""
    fields: dict[Name, Field] = {}

    @property
    def bounds(self) -> tuple[float, float]:
        """The declared bounds of its numbers; infinite where none is declared."""
        if self.kind == "flag":
            return 0.0, 1.0
        return (
            -math.inf if self.min is None else self.min,
            math.inf if self.max is None else self.max,
        )


class Criterion(_Table, frozen=True, kw_only=True):
    """The condition for a claim: the statistic is above, below, or between two bounds."""

    above: float | None = None
    below: float | None = None

    def met_by(self, value: float) -> bool:
        """Whether a value (of one seed, or a mean) satisfies the criterion."""
        return (self.above is None or value > self.above) and (
            self.below is None or value < self.below
        )


class Finding(_Table, frozen=True, kw_only=True):
    """A claim, declared before there is data, with the test that decides it.

    statistic   mean: of ``field``; difference: ``field - control`` of the same seed;
                ratio: ``field / control`` of the same seed;
                share: of seeds whose flag ``field`` is 1
    criterion   condition that the whole confidence interval of the statistic must meet
    min_share   share of seeds that must each meet the criterion
    where       parameter values of the results to use (other parameters: the defaults)
    """

    name: Name
    claim: Text
    field: str
    control: str | None = None
    statistic: Literal["mean", "difference", "ratio", "share"] = "mean"
    criterion: Criterion
    min_share: Annotated[float, Meta(ge=0, le=1)] = 0.9
    where: Parameters = {}
    about: str = ""


class Figure(_Table, frozen=True, kw_only=True):
    """A figure drawn from one result or several; see ``axiom_protocol/figure.py``.

    ``x`` and ``y`` are paths into a result: ``field`` or ``records.field``. If a path leads to a
    list inside each record, each record is drawn as one line, labelled by ``label``, a template of
    the record's numbers ("lr {lr:g}"). Kind ``map`` shows ``z`` as colour over ``x`` and ``y``.
    """

    name: Name
    title: Text
    kind: Literal["lines", "points", "bars", "map"] = "lines"
    x: str
    y: list[str]
    z: str | None = None
    label: str = ""
    legend: list[str] = []  # one name for each path in y, where they are fields and not records
    x_label: str = ""
    y_label: str = ""
    z_label: str = ""
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"
    x_mark: list[float] = []  # vertical reference lines
    y_mark: list[float] = []  # horizontal reference lines
    about: str = ""


class Manifest(_Table, frozen=True, kw_only=True):
    """The metadata of an experiment."""

    name: Name
    version: Version
    title: Annotated[str, Meta(min_length=1, max_length=120)]
    question: Text
    rationale: list[Text] = []
    references: list[Text] = []
    resources: Resources = Resources()
    cohort: Cohort | None = None  # of [tool.axiom_cohort]; None: seeds run one by one
    expected_seconds: Annotated[float, Meta(gt=0, le=30 * 86400)]
    parameters: dict[Name, Parameter] = {}
    result: dict[Name, Field]
    findings: list[Finding] = []
    figures: list[Figure] = []
    dependencies: list[str] = []  # from the block's own ``dependencies``: numpy, torch
    planned_seeds: Annotated[int, Meta(ge=0, le=1_000_000)] = 0  # of [tool.axiom_plan]; 0: none

    @property
    def ref(self) -> str:
        """Name and version of the bundle, such as ``rank_dynamics@1.0.0``."""
        return f"{self.name}@{self.version}"

    @property
    def environment(self) -> Literal["numpy", "torch"]:
        """The libraries that a run needs; hosts keep one process ready for each environment."""
        return "torch" if "torch" in self.dependencies else "numpy"

    def resolve(self, given: Parameters) -> Parameters:
        """The defaults overridden by ``given``. Raises ManifestError for a value out of range."""
        for key, value in sorted(given.items()):
            if key not in self.parameters:
                known = ", ".join(sorted(self.parameters)) or "none"
                raise ManifestError(f"{self.ref} has no parameter {_shown(key)}; it has: {known}")
            if why := self.parameters[key].refusal(value):
                raise ManifestError(f"parameter {key!r} of {self.ref} {why}, not {_shown(value)}")
        return {key: given.get(key, p.default) for key, p in sorted(self.parameters.items())}


def read_manifest(source: str) -> Manifest:
    """Read the metadata block of an experiment's source text.

    Raises ManifestError, which says what to change. The form of the block is that of PEP 723.
    """
    if source.startswith("\ufeff"):  # the interpreter refuses it too
        raise ManifestError("the script begins with a byte-order mark; save it as UTF-8 without")
    if "\0" in source:
        raise ManifestError("the script is not text, or saved as UTF-16; save it as UTF-8")
    blocks = list(_BLOCK.finditer(source.replace("\r\n", "\n")))
    if len(blocks) != 1:
        raise ManifestError(
            f"found {len(blocks)} metadata blocks, need exactly one: start it with '# /// script' "
            "and end it with '# ///', with nothing after either on its line"
        )
    content = "".join(
        line[2:] if line.startswith("# ") else line[1:]
        for line in blocks[0].group("content").splitlines(keepends=True)
    )
    if len(content) > MANIFEST_BYTES_MAX:
        raise ManifestError(f"the metadata is longer than {MANIFEST_BYTES_MAX} bytes; shorten it")
    try:
        block = tomllib.loads(content)
    except (ValueError, RecursionError) as error:  # ValueError also for an integer of 5,000 digits
        raise ManifestError(f"the metadata is not valid TOML: {error}") from None
    table = block.get("tool", {})
    table = table.get("axiom") if isinstance(table, dict) else None
    if not isinstance(table, dict):
        raise ManifestError("the metadata has no [tool.axiom] table; add one")
    # Tables of their own: agents of 0.1.0 refuse keys of [tool.axiom] that they do not know.
    plan = block["tool"].get("axiom_plan", {})
    if not isinstance(plan, dict) or plan.keys() - {"planned_seeds"}:
        raise ManifestError("[tool.axiom_plan] has one key, planned_seeds")
    cohort = block["tool"].get("axiom_cohort")
    if cohort is not None:
        table = {**table, "cohort": cohort}
    return manifest_from_table({**table, **plan}, block.get("dependencies", []))


def manifest_from_table(table: dict[str, Any], dependencies: object) -> Manifest:
    """Build and check a manifest from the parsed ``[tool.axiom]`` table."""
    try:
        manifest = msgspec.convert({**table, "dependencies": dependencies}, Manifest)
    except msgspec.ValidationError as error:
        raise ManifestError(f"[tool.axiom]: {error}") from None
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    unknown = sorted(set(manifest.dependencies) - {"numpy", "torch"})
    if unknown:
        raise ManifestError(
            f"dependencies: {', '.join(unknown)} is not available; "
            "use numpy, torch and the standard library"
        )
    for name in REQUIRED_FIELDS:
        if name not in manifest.result:
            raise ManifestError(
                f"[tool.axiom.result] lacks the field {name!r}; every result needs it"
            )
    for name, parameter in manifest.parameters.items():
        if isinstance(parameter.default, list) and not parameter.default:
            raise ManifestError(f"parameter {name!r}: the default is an empty list; give one item")
        if why := parameter.refusal(parameter.default):
            raise ManifestError(f"parameter {name!r}: its default {why}")
    for name, field in manifest.result.items():
        _check_field(name, field)
    for finding in manifest.findings:
        _check_finding(manifest, finding)
    for figure in manifest.figures:
        for path in (figure.x, *figure.y, *([figure.z] if figure.z else [])):
            if find_field(manifest, path) is None:
                raise ManifestError(f"figure {figure.name!r}: the result has no field {path!r}")


def _check_field(path: str, field: Field) -> None:
    if field.kind == "records":
        if not field.fields:
            raise ManifestError(f"result field {path!r}: records need a table of fields")
        for name, inner in field.fields.items():
            _check_field(f"{path}.{name}", inner)
    elif field.fields:
        raise ManifestError(f"result field {path!r}: only records have fields")
    if field.min is not None and field.max is not None and field.min > field.max:
        raise ManifestError(f"result field {path!r}: min is above max")


def _check_finding(manifest: Manifest, finding: Finding) -> None:
    where = f"finding {finding.name!r}"
    for path in filter(None, (finding.field, finding.control)):
        field = manifest.result.get(path)
        if field is None or field.kind == "records" or field.dims:
            raise ManifestError(f"{where}: {path!r} is not a single number of the result")
    if (finding.control is None) == (finding.statistic in ("difference", "ratio")):
        needs = "needs a" if finding.control is None else "takes no"
        raise ManifestError(f"{where}: the statistic {finding.statistic!r} {needs} control")
    if finding.criterion.above is None and finding.criterion.below is None:
        raise ManifestError(f"{where}: the criterion needs above, below or both")
    manifest.resolve(finding.where)


def _shown(value: object) -> str:
    """A value as quoted in a message, shortened: it may come from an untrusted sender."""
    if isinstance(value, int) and abs(value) > INTEGER_MAX:
        return f"a number of {value.bit_length()} bits"
    return reprlib.repr(value)


def find_field(manifest: Manifest, path: str) -> Field | None:
    """The field at a dotted path such as ``configs.lr``, or None."""
    fields, found = manifest.result, None
    for part in path.split("."):
        found = fields.get(part)
        if found is None:
            return None
        fields = found.fields
    return found
