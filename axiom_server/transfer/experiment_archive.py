"""One version of an experiment as an archive for other groups to work with: RO-Crate 1.1."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import msgspec

from axiom_server.store.experiments import VersionRow
from axiom_server.store.finding_values import FindingValues
from axiom_server.transfer.crate import METADATA, describe
from axiom_server.transfer.finding_data import as_csv, as_json

TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # zip's oldest; constant, so that equal files give equal archives


def crate(version: VersionRow, values: Sequence[FindingValues], source: str) -> bytes:
    """A zip of the script, its declaration, and each finding's verdict and values."""
    files = _files(version, values, source)
    files[METADATA] = describe(
        files, version.manifest.ref, version.manifest.question, version.published_at, {},
        version.manifest.references,
    )  # fmt: skip
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, TIMESTAMP)
            made.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _files(version: VersionRow, values: Sequence[FindingValues], source: str) -> dict[str, bytes]:
    files = {
        "declaration.json": msgspec.json.format(msgspec.json.encode(
            {"sha256": version.sha256, "published_at": version.published_at,
             "manifest": version.manifest, "declaration": version.declaration}))
    }  # fmt: skip
    if source:
        files[f"{version.name}.py"] = source.encode()
    by_name = {line.finding: line for line in values}
    for finding in version.manifest.findings:
        mine = by_name.get(finding.name)
        files[f"findings/{finding.name}.json"] = as_json(version, finding, mine)
        files[f"findings/{finding.name}.csv"] = as_csv(mine).encode()
    return files
