"""python-tuf's client with current metadata, also while staff change keys."""

from __future__ import annotations

from pathlib import Path

from tuf.api.exceptions import UnsignedMetadataError
from tuf.ngclient import FetcherInterface, Updater

from axiom_client.project.fetching import LIMITS


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
