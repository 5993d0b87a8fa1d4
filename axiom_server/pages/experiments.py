"""Pages of experiments: the question, the findings with their verdicts, charts and data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from axiom_protocol.manifest import Finding
from axiom_server.config import Config
from axiom_server.pages import chart
from axiom_server.pages.chart import Strip, Theme
from axiom_server.pages.environment import counted, environment, render
from axiom_server.pages.wording import criterion_text, statistic_text
from axiom_server.store import drawings, experiments, finding_values, statistics
from axiom_server.store.database import Connection
from axiom_server.store.experiments import VersionRow
from axiom_server.store.finding_values import FindingValues
from axiom_server.trust.metadata import BundlesError
from axiom_server.trust.repository import Repository

WIDTH, NARROW_WIDTH = 640, 340  # of a chart, in pixels
DECIDED = ("confirmed", "rejected", "fails seed by seed")
#: Verdicts in the order in which they are counted on pages.
ORDER = (*DECIDED, "preliminary", "insufficient", "no data yet")

Size = Literal["wide", "narrow", "small"]  # of a picture; small: narrow, and less in it


class Signature(NamedTuple):
    """One signature on the list of experiments, and the key that made it."""

    key_id: str
    signature: str


class FindingView(NamedTuple):
    """A finding as declared, with its latest verdict if there is one."""

    finding: Finding
    verdict: dict[str, Any] | None
    criterion: str
    statistic: str


async def listing(connection: Connection, config: Config) -> str:
    """Every experiment with the verdicts of its newest version."""
    newest = newest_of(await experiments.versions(connection))
    stored = await finding_values.verdicts(connection)
    return render(
        "experiments.html", project=config.project.name, path="/experiments",
        versions=[(v, views(v, stored.get(v.version_id, []))) for v in newest],
    )  # fmt: skip


def newest_of(versions: Sequence[VersionRow]) -> list[VersionRow]:
    """The version of each experiment that visitors see: the active one, else the last."""
    chosen: dict[str, VersionRow] = {}
    for version in versions:
        before = chosen.get(version.name)
        if before is None or before.state != "active" or version.state == "active":
            chosen[version.name] = version
    return [chosen[name] for name in sorted(chosen)]


async def one(
    connection: Connection, config: Config, bundles: Repository, name: str, version: str | None
) -> str | None:
    """The page of one experiment's version (None: the one that visitors see); None: unknown."""
    mine = [v for v in await experiments.versions(connection) if v.name == name]
    chosen = newest_of(mine) if version is None else [v for v in mine if v.version == version]
    if not chosen:
        return None
    shown = chosen[0]
    by_version = await finding_values.verdicts(connection)
    return render(
        "experiment.html", project=config.project.name, path=f"/experiments/{name}",
        version=shown, manifest=shown.manifest,
        findings=views(shown, by_version.get(shown.version_id, [])),
        versions=[(v, by_version.get(v.version_id, [])) for v in mine],
        names=sorted({f.name for v in mine for f in v.manifest.findings}),
        signatures=signatures(bundles), source=source_of(bundles, shown),
        work=await _work(connection, shown, by_version.get(shown.version_id, [])),
        drawn=await drawings.names(connection, f"version:{shown.version_id}"),
    )  # fmt: skip


async def _work(
    connection: Connection, version: VersionRow, verdicts: Sequence[dict[str, Any]]
) -> dict[str, int]:
    """How many workunits of a version wait and run, and how many seeds were judged."""
    waiting, running = await statistics.work_of(connection, version.version_id)
    judged = max((int(v["seeds"]) for v in verdicts), default=0)
    return {"waiting": waiting, "running": running, "seeds judged": judged}


async def figure_file(connection: Connection, name: str, version: str, stored: str) -> bytes | None:
    """A declared figure over all seeds, or its numbers as packed CSV; None when it is not drawn."""
    row = await version_of(connection, name, version)
    if row is None:
        return None
    found = await drawings.get(connection, f"version:{row.version_id}", f"figure.{stored}")
    return found.content if found else None


def views(version: VersionRow, verdicts: Sequence[dict[str, Any]]) -> list[FindingView]:
    """The findings of a version in the order of their declaration."""
    by_name = {v["name"]: v for v in verdicts}
    return [
        FindingView(f, by_name.get(f.name), criterion_text(f.criterion), statistic_text(f))
        for f in version.manifest.findings
    ]


def headline(found: Sequence[FindingView]) -> FindingView | None:
    """The finding that stands for an experiment: the first declared that has data."""
    return next((v for v in found if v.verdict and v.verdict["seeds"]), found[0] if found else None)


def verdict_counts(found: Sequence[FindingView]) -> list[tuple[str, int]]:
    """How many findings have each verdict."""
    words = [v.verdict["verdict"] if v.verdict and v.verdict["seeds"] else ORDER[-1] for v in found]
    return [(word, words.count(word)) for word in ORDER if word in words]


def signatures(bundles: Repository) -> list[Signature]:
    """The signatures on the list of published experiments; empty in a project without bundles."""
    try:
        signed = bundles.metadata.targets().signatures
    except (BundlesError, OSError):
        return []
    return [Signature(key_id, line.signature) for key_id, line in signed.items()]


def source_of(bundles: Repository, version: VersionRow) -> str:
    """The script of a version; "" when it is missing, as in a project without bundles."""
    path = bundles.folder / "targets" / f"{version.sha256}.{version.name}@{version.version}.py"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


async def version_of(connection: Connection, name: str, version: str) -> VersionRow | None:
    """The version of this experiment name and version number; None when there is none."""
    found = await experiments.versions(connection)
    return next((v for v in found if (v.name, v.version) == (name, version)), None)


async def key_of_values(
    connection: Connection, name: str, version: str, finding: str
) -> str | None:
    """What changes whenever a finding's values do; None when there is no such finding."""
    row = await version_of(connection, name, version)
    if row is None or finding not in {f.name for f in row.manifest.findings}:
        return None
    judged_at = await finding_values.judged_at(connection, row.version_id, finding)
    return f"{row.version_id} {row.sha256} {finding} {judged_at}"


async def values_of(
    connection: Connection, name: str, version: str, finding: str
) -> tuple[VersionRow, Finding, FindingValues | None] | None:
    """A finding's declaration and its values; None when no such finding was published."""
    row = await version_of(connection, name, version)
    if row is None:
        return None
    declared = [f for f in row.manifest.findings if f.name == finding]
    if not declared:
        return None
    stored = await finding_values.of_versions(connection, [row.version_id])
    return row, declared[0], next((s for s in stored if s.finding == finding), None)


def picture(
    finding: Finding, values: FindingValues | None, theme: Theme, size: Size = "wide"
) -> str:
    """A chart of each seed's value against the criterion.

    Unless ``small``, the field and its control are drawn below.
    """
    numbers = values.numbers if values else []
    strip = Strip(label=statistic_text(finding), rows=[("", numbers, False)])
    verdict = values.verdict if values else {}
    low, mean, high = (verdict.get(key) for key in ("low", "estimate", "high"))
    known = low is not None and mean is not None and high is not None
    interval = (float(low), float(mean), float(high)) if known else None  # type: ignore[arg-type]
    raw = None
    if values and finding.control and size != "small":
        shown = [(finding.field, values.fields, False), (finding.control, values.controls, True)]
        raw = Strip(label="each seed's two values", rows=shown)
    title = f"{counted(len(numbers), 'seed')}, criterion: {criterion_text(finding.criterion)}"
    width = WIDTH if size == "wide" else NARROW_WIDTH
    return chart.seeds_chart(title, strip, finding.criterion, interval, raw, theme, width)


environment.filters |= {"headline": headline, "verdict_counts": verdict_counts}
