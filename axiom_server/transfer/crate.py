"""The description of an exported folder: RO-Crate 1.1 (https://w3id.org/ro/crate/1.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
METADATA = "ro-crate-metadata.json"
FORMATS = {
    ".csv": "text/csv", ".ipynb": "application/x-ipynb+json", ".json": "application/json",
    ".png": "image/png", ".py": "text/x-python", ".toml": "application/toml",
}  # fmt: skip


def describe_folder(
    folder: Path, name: str, description: str, at: datetime, about: Mapping[str, str],
    citations: Sequence[str],
) -> None:  # fmt: skip
    """Write METADATA into the folder, which describes every file in it; see ``describe``."""
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = {path: facts_of((folder / path).read_bytes()) for path in paths if path != METADATA}
    (folder / METADATA).write_bytes(describe(files, name, description, at, about, citations))


class FileFacts(NamedTuple):
    """What a description says of a file's content."""

    size: int
    sha256: str


def facts_of(content: bytes) -> FileFacts:
    """The facts of a content that is at hand."""
    return FileFacts(len(content), hashlib.sha256(content).hexdigest())


def describe(
    files: Mapping[str, FileFacts], name: str, description: str, at: datetime,
    about: Mapping[str, str], citations: Sequence[str],
) -> bytes:  # fmt: skip
    """The content of METADATA. ``files``: by path; ``about``: a sentence for the main files."""
    listed = [_file(path, facts, about.get(path, "")) for path, facts in files.items()]
    graph = [
        {
            "@id": METADATA, "@type": "CreativeWork", "about": {"@id": "./"},
            "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        },
        {
            "@id": "./", "@type": "Dataset", "name": name, "description": description,
            "datePublished": at.isoformat(), "license": {"@id": LICENCE["@id"]},
            "hasPart": [{"@id": f["@id"]} for f in listed], "citation": list(citations),
        },
        LICENCE,
        *listed,
    ]  # fmt: skip
    encoded = msgspec.json.encode({"@context": CONTEXT, "@graph": graph})
    return msgspec.json.format(encoded, indent=1)


LICENCE: dict[str, Any] = {
    "@id": "https://www.apache.org/licenses/LICENSE-2.0", "@type": "CreativeWork",
    "name": "Apache License 2.0",
}  # fmt: skip


def _file(path: str, facts: FileFacts, about: str) -> dict[str, Any]:
    suffix = Path(path).suffix
    kind: Any = ["File", "SoftwareSourceCode"] if suffix in (".py", ".ipynb") else "File"
    entity = {
        "@id": path, "@type": kind, "name": Path(path).name, "contentSize": str(facts.size),
        "sha256": facts.sha256, "encodingFormat": FORMATS.get(suffix, "application/octet-stream"),
    }  # fmt: skip
    return {**entity, "description": about} if about else entity
