"""Unpacks the verified archive of a release."""

from __future__ import annotations

import hashlib
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from axiom_client.decide.update import Release
from axiom_client.releases.folder import CACHES, ReleaseFolder
from axiom_client.storage import DISK_FULL
from axiom_protocol.durable_file import PRIVATE, new_file
from axiom_protocol.text import megabytes

FILES_MAX = 50_000  # the agent with all that it needs has 4,000
UNPACKED_BYTES_MAX = 2_000_000_000  # with numpy and without torch it has 110 MB
SPACE_KEPT_BYTES = 64_000_000  # left free, for the journal and the log
_CHUNK_BYTES = 1 << 20


class StageProblem(Exception):
    """A release cannot be staged or started; the message is the reason."""


def unpack(folder: ReleaseFolder, archive: Path, release: Release) -> None:
    """Unpack an archive as a version. Raises StageProblem, OSError; then it leaves nothing."""
    try:
        with folder.staging(release) as (library, files):
            files.update(_unpacked(archive, library))
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StageProblem("the disk is full") from None
        raise


def _unpacked(archive: Path, target: Path) -> Iterator[tuple[str, str]]:
    """Unpack an archive; each file's path and SHA-256. Raises StageProblem."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [info for info in opened.infolist() if not info.is_dir()]
            _check_members(members)
            check_space(target.parent, sum(info.file_size for info in members))
            for info in members:
                path = target / info.filename
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with opened.open(info) as source, new_file(path, PRIVATE) as file:
                    yield info.filename, _copy(source, file)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise StageProblem(f"the archive cannot be unpacked: {error}") from None


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy everything; its SHA-256."""
    digest = hashlib.sha256()
    while piece := source.read(_CHUNK_BYTES):
        digest.update(piece)
        target.write(piece)
    return digest.hexdigest()


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    """Refuse names that lead elsewhere, links, files that collide, and too much of everything."""
    names = [info.filename for info in members]
    if len(names) > FILES_MAX or sum(info.file_size for info in members) > UNPACKED_BYTES_MAX:
        raise StageProblem("the archive unpacks to more than a release may have")
    if len({name.casefold() for name in names}) < len(names):
        raise StageProblem("the archive has two files of one name")
    for info in members:
        if not _is_plain(info.filename) or stat.S_ISLNK(info.external_attr >> 16):
            raise StageProblem(f"the archive has a file named {info.filename!a}")


def _is_plain(name: str) -> bool:
    path = PurePosixPath(name)
    odd = any(letter in name for letter in '\\:\0<>"|?*') or not name.isprintable()
    return not odd and not path.is_absolute() and not {"..", CACHES} & set(path.parts)


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raise StageProblem where a folder's disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SPACE_KEPT_BYTES:
        raise StageProblem(
            f"it needs {megabytes(needed_bytes + SPACE_KEPT_BYTES)} on the disk, "
            f"and {megabytes(free)} are free"
        )
