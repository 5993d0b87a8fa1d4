"""Read and write the signed metadata of the bundles on disk.

``timestamp.json`` names the current snapshot, and the snapshot names the current targets. A file
that a crash left behind is not referenced, and is overwritten later.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError, StorageError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from axiom_protocol.durable_file import replace_file
from axiom_protocol.release import RELEASES
from axiom_server.errors import SigningFailed
from axiom_server.trust.keys import Role

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

Clock = Callable[[], datetime]
T = TypeVar("T", Root, Timestamp, Snapshot, Targets)

# How long each role's metadata is valid. People sign root and targets, and rarely. `serve` signs a
# timestamp every hour; a host that gets no new one for a day takes no new work, which is TUF's
# protection against freeze attacks.
ROOT_LIFETIME = timedelta(days=730)
TARGETS_LIFETIME = timedelta(days=180)
SNAPSHOT_LIFETIME = timedelta(days=7)
TIMESTAMP_LIFETIME = timedelta(days=1)
RESIGN_AFTER = timedelta(minutes=55)  # a little less than an hour, so that an hourly call signs
VERSIONS_SKIPPED_MAX = 10_000  # of the targets: more than staff sign between two backups


class BundlesError(SigningFailed):
    """The signed metadata cannot be read or changed; the message says what to do next."""


def utc_now() -> datetime:
    """The current time in whole seconds, as in TUF metadata."""
    return datetime.now(UTC).replace(microsecond=0)


class MetadataFolder:
    """DIR/bundles/metadata: timestamp.json, root.json, N.{root,targets,snapshot}.json.

    After a restore also ``least-targets-version``: the lowest version that new targets may have.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def exists(self) -> bool:
        """Whether metadata exists."""
        return (self.folder / "timestamp.json").exists()

    def root(self) -> Metadata[Root]:
        """The newest root."""
        return self._read("root.json", Root)

    def timestamp(self) -> Metadata[Timestamp]:
        """The current timestamp."""
        return self._read("timestamp.json", Timestamp)

    def snapshot(self) -> Metadata[Snapshot]:
        """The snapshot that the timestamp names."""
        version = self.timestamp().signed.snapshot_meta.version
        return self._read(f"{version}.snapshot.json", Snapshot)

    def targets(self) -> Metadata[Targets]:
        """The targets that the snapshot names."""
        version = self.snapshot().signed.meta["targets.json"].version
        return self._read(f"{version}.targets.json", Targets)

    def releases(self) -> Metadata[Targets] | None:
        """The releases of axiom-client that the snapshot names; None before the first."""
        meta = self.snapshot().signed.meta.get(f"{RELEASES}.json")
        if meta is None:
            return None
        return self._read(f"{meta.version}.{RELEASES}.json", Targets)

    def next_targets_version(self) -> int:
        """The version of the next targets. After a restore it is above all that hosts have seen."""
        following = self.snapshot().signed.meta["targets.json"].version + 1
        try:
            return max(following, int(self._least_targets_version.read_text()))
        except FileNotFoundError:
            return following
        except ValueError:
            raise BundlesError(
                f"{self._least_targets_version} holds no number: give axiom-server new-epoch again"
            ) from None

    def leave_versions_free(self) -> None:
        """Let the next targets skip the versions that the server may have signed since a backup."""
        least = self.snapshot().signed.meta["targets.json"].version + VERSIONS_SKIPPED_MAX
        replace_file(self._least_targets_version, str(least).encode())

    @property
    def _least_targets_version(self) -> Path:
        return self.folder / "least-targets-version"

    def write_root(self, root: Metadata[Root]) -> None:
        """Write a new root, first under its version, then as root.json."""
        data = root.to_bytes()
        replace_file(self.folder / f"{root.signed.version}.root.json", data)
        replace_file(self.folder / "root.json", data)

    def write_targets(self, targets: Metadata[Targets]) -> MetaFile:
        """Write new targets, and return the snapshot's entry for them."""
        return self._write(f"{targets.signed.version}.targets.json", targets)

    def write_releases(self, releases: Metadata[Targets]) -> MetaFile:
        """Write new releases of axiom-client, and return the snapshot's entry for them."""
        return self._write(f"{releases.signed.version}.{RELEASES}.json", releases)

    def write_snapshot(self, snapshot: Metadata[Snapshot]) -> MetaFile:
        """Write a new snapshot, and return the timestamp's entry for it."""
        return self._write(f"{snapshot.signed.version}.snapshot.json", snapshot)

    def write_timestamp(self, timestamp: Metadata[Timestamp]) -> None:
        """Write a new timestamp, which makes the snapshot and targets that it leads to current."""
        replace_file(self.folder / "timestamp.json", timestamp.to_bytes())

    def _write(self, name: str, metadata: Metadata[Snapshot] | Metadata[Targets]) -> MetaFile:
        data = metadata.to_bytes()
        replace_file(self.folder / name, data)
        return MetaFile.from_data(metadata.signed.version, data, ["sha256"])

    def _read(self, name: str, kind: type[T]) -> Metadata[T]:
        try:
            metadata = Metadata[T].from_file(str(self.folder / name))
        except StorageError:
            raise BundlesError(
                f"{self.folder / name} is missing: create the bundles with axiom-server init, "
                "or restore them from a backup"
            ) from None
        except RepositoryError as error:
            raise BundlesError(
                f"{self.folder / name} is damaged: {error}; restore it from a backup"
            ) from None
        if not isinstance(metadata.signed, kind):
            raise BundlesError(
                f"{self.folder / name} is not {kind.type} metadata; restore it from a backup"
            )
        return metadata


def root_fingerprint(root: Metadata[Root]) -> str:
    """SHA-256 in hexadecimal of the root's signed bytes, which do not include signatures."""
    return hashlib.sha256(root.signed_bytes).hexdigest()


def sign(metadata: Metadata[T], signers: Iterable[Signer]) -> None:
    """Add the signatures of ``signers`` to those on the metadata."""
    for signer in signers:
        metadata.sign(signer, append=True)


def check_signatures(trusted: Root | Targets, role: Role, metadata: Metadata[T]) -> None:
    """Raise BundlesError unless enough of the role's keys have signed for its threshold.

    trusted  the root, or for a delegated role the targets that delegate to it
    """
    found = trusted.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    if not found.verified:
        raise BundlesError(
            f"the new {role} metadata has {len(found.signed)} of the {found.threshold} signatures "
            "that the project requires: sign it with the other keys too (axiom-server sign), "
            "or use the keys that it trusts (axiom-server keys list)"
        )


def check_root(current: Metadata[Root], new: Metadata[Root]) -> None:
    """Raise BundlesError unless clients that trust ``current`` will accept ``new``."""
    if new.signed.version != current.signed.version + 1:
        raise BundlesError(
            f"this was signed as version {new.signed.version} of the root, and version "
            f"{current.signed.version + 1} comes next: write the request again"
        )
    check_signatures(current.signed, "root", new)
    check_signatures(new.signed, "root", new)


def _delete_partial_files(folder: Path) -> None:
    """Delete what killed writers left: nobody else writes while the folder is locked."""
    for place in (folder, folder / "metadata", folder / "targets"):
        for partial in place.glob(".*.partial"):
            partial.unlink(missing_ok=True)


@contextmanager
def write_lock(folder: Path) -> Iterator[None]:
    """Lock the folder against other writers. The lock of a crashed process is released."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+b") as file:
        if sys.platform == "win32":
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        _delete_partial_files(folder)
        yield
