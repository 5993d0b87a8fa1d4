"""One version of an experiment as an archive for other groups to work with: RO-Crate 1.1.

It is written while it is sent: results are read a few at a time, in transactions of their own, so
that neither memory nor the database holds more for a slow reader.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import zipfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from axiom_server.store import version_results
from axiom_server.store.database import Pool
from axiom_server.store.experiments import VersionRow
from axiom_server.store.finding_values import FindingValues
from axiom_server.store.version_results import COLUMNS
from axiom_server.transfer.crate import METADATA, FileFacts, describe, facts_of
from axiom_server.transfer.finding_data import as_csv, as_json

TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # zip's oldest; constant, so that equal files give equal archives
RESULTS_MAX = 1_000_000  # of one archive; axiom-server export results has no such bound
ABOUT = {
    "declaration.json": "What the experiment asks, measures and claims, as it was published",
    "parameters.json": "Every parameter set that was deployed, with its budget and its seeds",
    "results.csv": "Every accepted result, one a line: seed, parameters, all numbers (JSON)",
}


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What is archived. ``source``: the script; "" where it is not here."""

    version: VersionRow
    values: Sequence[FindingValues]
    source: str

    def files(self) -> dict[str, bytes]:
        """The script, its declaration, and each finding's verdict and values."""
        version = self.version
        declared = {
            "sha256": version.sha256, "published_at": version.published_at,
            "manifest": version.manifest, "declaration": version.declaration,
        }  # fmt: skip
        files = {"declaration.json": _json(declared)}
        if self.source:
            files[f"{version.name}.py"] = self.source.encode()
        by_name = {line.finding: line for line in self.values}
        for finding in version.manifest.findings:
            mine = by_name.get(finding.name)
            files[f"findings/{finding.name}.json"] = as_json(version, finding, mine)
            files[f"findings/{finding.name}.csv"] = as_csv(mine).encode()
        return files


async def stream(pool: Pool, archive: Archive) -> AsyncIterator[bytes]:
    """The zip, piece by piece."""
    version = archive.version
    async with pool.connection() as connection:
        sets = await version_results.parameter_sets(connection, version.version_id)
    packer = _Packer()
    files = {**archive.files(), "parameters.json": _json([s._asdict() for s in sets])}
    for name, content in files.items():
        packer.add(name, content)
        yield packer.take()
    packer.begin("results.csv")
    await packer.write(_lines([COLUMNS]))
    async for found in version_results.batches(pool, version.version_id, RESULTS_MAX):
        await packer.write(_lines(found))
        yield packer.take()
    packer.end()
    packer.add(METADATA, describe(
        packer.files, version.manifest.ref, version.manifest.question, version.published_at,
        ABOUT, version.manifest.references,
    ))  # fmt: skip
    packer.close()
    yield packer.take()


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value))


def _lines(lines: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for line in lines:
        writer.writerow([
            msgspec.json.encode(v).decode() if isinstance(v, dict) else v for v in line
        ])  # fmt: skip
    return text.getvalue().encode()


class _Sink(io.RawIOBase):
    """Where zipfile writes to: it cannot go back, so sizes follow the files."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.written += data
        return len(data)


@dataclass
class _Packer:
    """A zip under way; ``take`` gives what was packed since the last time."""

    files: dict[str, FileFacts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sink = _Sink()
        self._zip = zipfile.ZipFile(self._sink, "w", zipfile.ZIP_DEFLATED)

    def add(self, name: str, content: bytes) -> None:
        """A whole file."""
        self._zip.writestr(_entry(name), content, zipfile.ZIP_DEFLATED)
        self.files[name] = facts_of(content)

    def begin(self, name: str) -> None:
        """A file that is written in pieces."""
        self._name, self._size, self._digest = name, 0, hashlib.sha256()
        self._file = self._zip.open(_entry(name), "w", force_zip64=True)

    async def write(self, data: bytes) -> None:
        """The next piece; it is packed beside the event loop."""
        self._size += len(data)
        self._digest.update(data)
        await asyncio.to_thread(self._file.write, data)

    def end(self) -> None:
        """The file is complete."""
        self._file.close()
        self.files[self._name] = FileFacts(self._size, self._digest.hexdigest())

    def close(self) -> None:
        """The zip is complete."""
        self._zip.close()

    def take(self) -> bytes:
        """What was packed since the last time."""
        taken = bytes(self._sink.written)
        self._sink.written.clear()
        return taken


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, TIMESTAMP)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry
