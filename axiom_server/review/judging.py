"""The verdicts of a review: every finding of every version in use."""

from __future__ import annotations

import msgspec

from axiom_protocol.verdicts.findings import Study, Verdicts, judge_together
from axiom_protocol.verdicts.samples import is_seed_ignored
from axiom_server.review.log import FindingLine
from axiom_server.store import experiments, findings, issued_seeds
from axiom_server.store.database import Connection
from axiom_server.store.experiments import VersionRow


async def judge_all(connection: Connection) -> list[FindingLine]:
    """The verdict on every finding of every active version, all decided together."""
    found = await in_use(connection)
    return [
        line_of(version.name, verdict)
        for (version, _), verdicts in zip(
            found, judge_together([study for _, study in found]), strict=True
        )
        for verdict in verdicts
    ]


async def in_use(connection: Connection) -> list[tuple[VersionRow, Study]]:
    """Every active version with findings, and all that is known of its seeds."""
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
    """A verdict as the session's record and its log hold it."""
    return msgspec.convert({"experiment": experiment, **msgspec.to_builtins(verdict)}, FindingLine)
