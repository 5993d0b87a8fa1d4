"""One version of an experiment as an archive that another group can work from: RO-Crate 1.1."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import msgspec

from axiom_server.pages import experiments
from axiom_server.store.experiments import VersionRow
from axiom_server.store.finding_values import FindingValues

METADATA = "ro-crate-metadata.json"
CONTEXT = "https://w3id.org/ro/crate/1.1/context"
PROFILE = "https://w3id.org/ro/crate/1.1"
TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the oldest that zip knows: equal contents give equal archives


def crate(version: VersionRow, values: Sequence[FindingValues], source: str) -> bytes:
    """A zip of the script, its declaration, and each finding's verdict and values."""
    files = _files(version, values, source)
    files[METADATA] = msgspec.json.format(msgspec.json.encode(_metadata(version, files)))
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
        files[f"findings/{finding.name}.json"] = experiments.as_json(version, finding, mine)
        files[f"findings/{finding.name}.csv"] = experiments.as_csv(mine).encode()
    return files


def _metadata(version: VersionRow, files: dict[str, bytes]) -> dict[str, Any]:
    root = {
        "@id": "./", "@type": "Dataset", "name": version.manifest.title,
        "description": version.manifest.question, "version": version.version,
        "datePublished": version.published_at.date().isoformat(),
        "license": "https://www.apache.org/licenses/LICENSE-2.0",
        "hasPart": [{"@id": name} for name in files],
    }  # fmt: skip
    about = {
        "@id": METADATA, "@type": "CreativeWork", "about": {"@id": "./"},
        "conformsTo": {"@id": PROFILE},
    }  # fmt: skip
    return {"@context": CONTEXT, "@graph": [about, root, *map(_entity, files)]}


def _entity(name: str) -> dict[str, Any]:
    kinds = {"py": "text/x-python", "csv": "text/csv", "json": "application/json"}
    made: dict[str, Any] = {
        "@id": name, "@type": "File", "encodingFormat": kinds[name.rpartition(".")[2]]
    }  # fmt: skip
    if name.endswith(".py"):
        made["@type"] = ["File", "SoftwareSourceCode"]
    return made
