"""The description of an exported folder: RO-Crate 1.1 (https://w3id.org/ro/crate/1.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

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
    contents = {path: (folder / path).read_bytes() for path in paths if path != METADATA}
    (folder / METADATA).write_bytes(describe(contents, name, description, at, about, citations))


def describe(
    contents: Mapping[str, bytes], name: str, description: str, at: datetime,
    about: Mapping[str, str], citations: Sequence[str],
) -> bytes:  # fmt: skip
    """The content of METADATA.

    ``contents``: the files' bytes by path; ``about``: a sentence about each of the main files.
    """
    files = [_file(path, data, about.get(path, "")) for path, data in contents.items()]
    graph = [
        {
            "@id": METADATA, "@type": "CreativeWork", "about": {"@id": "./"},
            "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        },
        {
            "@id": "./", "@type": "Dataset", "name": name, "description": description,
            "datePublished": at.isoformat(), "license": {"@id": LICENCE["@id"]},
            "hasPart": [{"@id": f["@id"]} for f in files], "citation": list(citations),
        },
        LICENCE,
        *files,
    ]  # fmt: skip
    encoded = msgspec.json.encode({"@context": CONTEXT, "@graph": graph})
    return msgspec.json.format(encoded, indent=1)


LICENCE: dict[str, Any] = {
    "@id": "https://www.apache.org/licenses/LICENSE-2.0", "@type": "CreativeWork",
    "name": "Apache License 2.0",
}  # fmt: skip


def _file(path: str, data: bytes, about: str) -> dict[str, Any]:
    suffix = Path(path).suffix
    kind: Any = ["File", "SoftwareSourceCode"] if suffix in (".py", ".ipynb") else "File"
    entity = {
        "@id": path, "@type": kind, "name": Path(path).name, "contentSize": str(len(data)),
        "sha256": hashlib.sha256(data).hexdigest(),
        "encodingFormat": FORMATS.get(suffix, "application/octet-stream"),
    }  # fmt: skip
    return {**entity, "description": about} if about else entity
