"""Judge the findings of every active version, and store the data of each verdict."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from axiom_protocol.verdicts.findings import Study, Verdicts, judge_together
from axiom_protocol.verdicts.samples import count, is_seed_ignored
from axiom_server.review.log import FindingLine
from axiom_server.store import experiments, finding_values, findings, issued_seeds
from axiom_server.store.database import Connection
from axiom_server.store.experiments import VersionRow
from axiom_server.store.finding_values import FindingValues


async def judge_all(connection: Connection) -> list[FindingLine]:
    """The verdict on every finding of every active version, all decided together."""
    return [line_of(version.name, verdict) for version, _, verdict in await _judged(connection)]


async def judge_and_record(connection: Connection) -> list[FindingLine]:
    """As ``judge_all``; also stores the data behind each verdict, for the pages."""
    judged = await _judged(connection)
    for version, study, verdict in judged:
        await finding_values.record(connection, _values(version, study, verdict))
    return [line_of(version.name, verdict) for version, _, verdict in judged]


async def _judged(connection: Connection) -> list[tuple[VersionRow, Study, Verdicts]]:
    found = await in_use(connection)
    judged = judge_together([study for _, study in found])
    return [
        (version, study, verdict)
        for (version, study), verdicts in zip(found, judged, strict=True)
        for verdict in verdicts
    ]


def _values(version: VersionRow, study: Study, verdict: Verdicts) -> FindingValues:
    """The data behind a verdict: one value for each seed."""
    finding = next(f for f in version.manifest.findings if f.name == verdict.name)
    counted = count(study.manifest, finding, study.samples, study.issued)
    samples, control = counted.samples, finding.control
    return FindingValues(
        version_id=version.version_id, finding=finding.name, judged_at=datetime.now(UTC),
        verdict=msgspec.to_builtins(line_of(version.name, verdict)),
        seeds=[s.seed for s in samples], hosts=[s.host_id for s in samples],
        numbers=list(counted.values), fields=[float(s.result[finding.field]) for s in samples],
        controls=[float(s.result[control]) for s in samples] if control else [],
    )  # fmt: skip


async def in_use(connection: Connection) -> list[tuple[VersionRow, Study]]:
    """Every active version with findings, and the results and state of its seeds."""
    return [
        (version, await _study(connection, version))
        for version in await experiments.versions(connection)
        if version.state == "active" and version.manifest.findings
    ]


async def _study(connection: Connection, version: VersionRow) -> Study:
    manifest, version_id = version.manifest, version.version_id
    return Study(
        manifest=manifest,
        samples=await findings.samples(connection, version_id, manifest),
        issued=await issued_seeds.issued(connection, version_id, manifest),
        seed_ignored=is_seed_ignored(manifest, await findings.probes(connection, version_id)),
    )


def line_of(experiment: str, verdict: Verdicts) -> FindingLine:
    """A verdict in the form of a session's record and log."""
    return msgspec.convert({"experiment": experiment, **msgspec.to_builtins(verdict)}, FindingLine)
