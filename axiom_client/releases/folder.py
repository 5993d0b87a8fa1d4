"""The folder of releases in the agent's state: one folder a version, and the record of them.

A version's folder appears at once and complete, under its name; until then it is a ``.partial``
folder, which the next attempt deletes. The record is replaced as a whole. Both belong to the
agent's user; tasks can write to neither.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from axiom_client.decide.update import Release, UpdateRecord
from axiom_client.errors import AlreadyRunning
from axiom_protocol.durable_file import PRIVATE, replace_file, sync_disks, sync_folder
from axiom_protocol.release import parse_version

CACHES = "__pycache__"  # Python writes them beside the sources
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Contents(Struct, frozen=True, kw_only=True):
    """The list of a version's files, by their paths below ``lib``: SHA-256 in hexadecimal."""

    release: Release
    files: dict[str, str]


class ReleaseFolder:
    """The releases below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def metadata(self) -> Path:
        """Signed metadata, as last verified by the check for releases."""
        return self.folder / "metadata"

    @property
    def lock_file(self) -> Path:
        """Locked by the launcher: one for each folder."""
        return self.folder / "launcher.lock"

    @property
    def notify_socket(self) -> Path:
        """Where the launched agent sends what is for the service manager."""
        return self.folder / "notify"

    @property
    def download(self) -> Path:
        """The archive that is being fetched."""
        return self.folder / "download.partial"

    def libraries(self, version: str) -> Path:
        """The folder that a version's packages are imported from."""
        return self._version(version) / "lib"

    def _version(self, version: str) -> Path:
        return self.folder / "versions" / version

    def make(self) -> None:
        """Create the folder; only its owner can enter it."""
        for folder in (self.folder, self.folder / "versions"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the launcher's lock. Raises AlreadyRunning while another launcher holds it."""
        self.make()
        with self.lock_file.open("ab") as file:
            try:
                _lock(file.fileno(), wait=False)
            except OSError:
                raise AlreadyRunning(
                    "another agent uses this folder already; see it with: axiom-client status"
                ) from None
            yield

    # --- the record -------------------------------------------------------------------------------

    def record(self) -> UpdateRecord:
        """The record. A damaged one counts as none: the installation itself is started then."""
        try:
            return msgspec.json.decode(
                (self.folder / "record.json").read_bytes(), type=UpdateRecord
            )
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return UpdateRecord()

    def change_record(self, change: Callable[[UpdateRecord], UpdateRecord]) -> UpdateRecord:
        """Replace the record by what ``change`` makes of it. A power cut leaves the old or the new.

        The agent's check and the launcher both change it; one waits for the other.
        """
        self.make()
        with (self.folder / "record.lock").open("ab") as lock:
            _lock(lock.fileno(), wait=True)
            record = change(self.record())
            data = msgspec.json.format(msgspec.json.encode(record))
            replace_file(self.folder / "record.json", data, PRIVATE)
        return record

    # --- versions ---------------------------------------------------------------------------------

    def present(self) -> list[str]:
        """The versions that are complete on the disk."""
        folders = (self.folder / "versions").glob("*/contents.json")
        return sorted(p.parent.name for p in folders if parse_version(p.parent.name))

    def delete(self, versions: list[str]) -> None:
        """Delete versions, and what an interrupted attempt left."""
        for partial in (self.folder / "versions").glob("*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        for version in versions:
            self._set_aside(version)

    def _set_aside(self, version: str) -> None:
        """Delete a version, so that no part of it is ever found under its name."""
        doomed = self._version(f"{version}.old.partial")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(self._version(version), doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    @contextmanager
    def staging(self, release: Release) -> Iterator[tuple[Path, dict[str, str]]]:
        """A folder for a version's packages, and a list for their files, by path: SHA-256.

        When the block has filled both, the version appears. An error leaves nothing.
        """
        self.make()
        partial, files = self._version(f"{release.version}.partial"), dict[str, str]()
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(mode=0o700)
            yield partial / "lib", files
            contents = msgspec.json.encode(Contents(release=release, files=files))
            sync_disks()
            replace_file(partial / "contents.json", contents, PRIVATE)
            if self._version(release.version).exists():
                self._set_aside(release.version)
            os.replace(partial, self._version(release.version))
            sync_folder(self._version(release.version).parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def check(self, version: str) -> str:
        """What is wrong with a version on the disk; empty if it is as it was unpacked."""
        folder = self._version(version)
        try:
            data = (folder / "contents.json").read_bytes()
            contents = msgspec.json.decode(data, type=Contents)
            return _first_problem(folder, contents)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            return f"its files cannot be read ({error})"


def _first_problem(folder: Path, contents: Contents) -> str:
    library, found = folder / "lib", set()
    for path in (folder, *folder.rglob("*")):
        if why := _not_ours(path):
            return f"{path} {why}"
        if path.is_file() and path.is_relative_to(library) and path.parent.name != CACHES:
            found.add(path.relative_to(library).as_posix())
    if found != contents.files.keys():
        odd = sorted(found ^ contents.files.keys())[0]
        return f"the file {odd} is missing" if odd not in found else f"the file {odd} was added"
    for name, sha256 in contents.files.items():
        if _digest(library / name) != sha256:
            return f"the file {name} was changed"
    return ""


def _not_ours(path: Path) -> str:
    """Why a file may not be run: a link, another user's, or one that others may write."""
    if sys.platform == "win32":
        return ""
    else:  # noqa: RET505  mypy skips a branch, not what follows one
        found, in_cache = path.lstat(), CACHES in path.parts
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            return "is neither a file nor a folder"
        if found.st_uid != os.geteuid():
            return "belongs to another user"
        others = found.st_mode & _WRITABLE_BY_OTHERS and not in_cache  # Python follows the umask
        return "can be written by other users" if others else ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lock(file: int, *, wait: bool) -> None:
    if sys.platform != "win32":  # where agents do not update themselves
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
