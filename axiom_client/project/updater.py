"""python-tuf's client with current metadata, also while staff change keys."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from securesystemslib.exceptions import StorageError
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater

from axiom_client.project.fetching import LIMITS

T = TypeVar("T", Root, Timestamp, Snapshot, Targets)


def read_metadata(folder: Path, kind: type[T], role: str = "") -> Metadata[T]:
    """The metadata that were stored last, of the kind's own role or of a delegated one.

    Raises OSError, RepositoryError.
    """
    path = folder / f"{role or kind.type}.json"
    try:
        return Metadata[T].from_file(str(path))
    except StorageError as error:  # no OSError
        raise OSError(f"cannot read {path}: {error.__context__ or error}") from None


def refreshed_updater(
    folder: Path, metadata_url: str, fetcher: FetcherInterface, root: bytes
) -> Updater:
    """An updater that has downloaded and verified the metadata of all four roles.

    folder  keeps the metadata
    root    the pinned root's bytes

    Staff may change a key after the root was read and before a file that the new key signs. So when
    a file is not signed by the keys of the root, the root is read again, once. Raises
    RepositoryError, DownloadError.
    """
    try:
        return _refreshed(folder, metadata_url, fetcher, root)
    except UnsignedMetadataError:
        return _refreshed(folder, metadata_url, fetcher, root)


def _refreshed(folder: Path, metadata_url: str, fetcher: FetcherInterface, root: bytes) -> Updater:
    updater = Updater(str(folder), metadata_url, fetcher=fetcher, config=LIMITS, bootstrap=root)
    updater.refresh()
    return updater
