"""Reads the facts of a release from its archive: a wheel, or a standalone archive (a zip)."""

from __future__ import annotations

import io
import re
import zipfile
from email.message import Message
from email.parser import HeaderParser

import msgspec
from msgspec import Struct

from axiom_protocol.release import ARCHIVE_BYTES_MAX, ReleaseFacts
from axiom_server.errors import ReleaseMalformed
from axiom_server.trust.releases import version_parts

FACTS_FILE = "axiom_release.json"  # in a standalone archive, beside the packages
NEEDED = ("axiom_client/__main__.py", "axiom_protocol/__init__.py")
_VERSION = re.compile(r'(?m)^__version__ = "([^"]+)"$')
_JOURNAL = re.compile(r"(?m)^SCHEMA_VERSION = (\d+)$")
_PYTHON_FROM = re.compile(r">=\s*(\d+\.\d+)")
_MEMBER_BYTES_MAX = 4_000_000


class Archive(Struct, frozen=True, kw_only=True):
    """The bytes of an archive, and its facts."""

    facts: ReleaseFacts
    data: bytes


class _Standalone(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What only the builder of a standalone archive knows."""

    system: str
    python_from: str
    python_below: str


def read_archive(data: bytes) -> Archive:
    """Read the facts of an archive. Raises ReleaseMalformed."""
    if len(data) > ARCHIVE_BYTES_MAX:
        raise ReleaseMalformed(f"the archive has {len(data)} bytes; at most {ARCHIVE_BYTES_MAX}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return Archive(facts=_facts(archive), data=data)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise ReleaseMalformed(
            f"it is no archive of axiom-client: {error}; give a wheel (.whl) or a standalone .zip"
        ) from None


def _facts(archive: zipfile.ZipFile) -> ReleaseFacts:
    names = set(archive.namelist())
    if missing := [name for name in NEEDED if name not in names]:
        raise ReleaseMalformed(f"it is no archive of axiom-client: it lacks {missing[0]}")
    version = _found(_VERSION, archive, "axiom_protocol/__init__.py")
    version_parts(version)
    journal_format = int(_found(_JOURNAL, archive, "axiom_client/agent/journal.py"))
    if FACTS_FILE in names:
        return _standalone(_text(archive, FACTS_FILE), version, journal_format)
    if not all(tag.endswith("-none-any") for tag in _headers(archive, "WHEEL").get_all("Tag", [])):
        raise ReleaseMalformed("the wheel is for one system only; give a standalone archive")
    python = _PYTHON_FROM.search(_headers(archive, "METADATA")["Requires-Python"] or "")
    if python is None:
        raise ReleaseMalformed("the wheel does not name the Python that it needs")
    return ReleaseFacts(version=version, python_from=python[1], journal_format=journal_format)


def _standalone(text: str, version: str, journal_format: int) -> ReleaseFacts:
    try:
        known = msgspec.json.decode(text, type=_Standalone)
    except msgspec.DecodeError as error:
        raise ReleaseMalformed(f"its {FACTS_FILE} is wrong: {error}") from None
    return ReleaseFacts(
        version=version, journal_format=journal_format, **msgspec.structs.asdict(known)
    )


def _headers(archive: zipfile.ZipFile, name: str) -> Message:
    pattern = re.compile(rf"axiom_client-[^/]*\.dist-info/{name}")
    found = [member for member in archive.namelist() if pattern.fullmatch(member)]
    if len(found) != 1:
        raise ReleaseMalformed(f"it is no wheel of axiom-client: it has {len(found)} {name} files")
    return HeaderParser().parsestr(_text(archive, found[0]))


def _found(pattern: re.Pattern[str], archive: zipfile.ZipFile, name: str) -> str:
    found = pattern.search(_text(archive, name))
    if found is None:
        raise ReleaseMalformed(f"it is no archive of axiom-client: {name} names no version")
    return found[1]


def _text(archive: zipfile.ZipFile, name: str) -> str:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise ReleaseMalformed(f"it is no archive of axiom-client: it lacks {name}") from None
    if info.file_size > _MEMBER_BYTES_MAX:
        raise ReleaseMalformed(f"it is no archive of axiom-client: {name} is too large")
    return archive.read(info).decode()
