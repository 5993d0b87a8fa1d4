"""The releases of the agent that a project's staff have signed, and the download of one.

They are targets of the delegated role ``client-releases``. python-tuf checks them as it checks
bundles. Here is checked in addition that the targets delegate to exactly the keys that the signed
root names for this role: who signs experiments cannot release an agent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import DelegatedRole, Root, Snapshot, TargetFile, Targets

from axiom_client.decide.update import Release
from axiom_client.project.fetching import HttpFetcher, refusal
from axiom_client.project.refusal import BundleRefused
from axiom_client.project.updater import read_metadata, refreshed_updater
from axiom_protocol.release import (
    ARCHIVE_BYTES_MAX,
    RELEASE_FIELD,
    RELEASES,
    ROOT_FIELD,
    ReleaseFacts,
)

ANY_PATH = "axiom-client-"  # a name of the role, by which python-tuf loads its metadata
_log = logging.getLogger(__name__)


class SignedReleases:
    """The signed releases of one project. ``folder`` keeps the metadata; one process may use it."""

    def __init__(self, folder: Path, project_url: str, fetcher: HttpFetcher) -> None:
        self._folder = folder
        self._url = f"{project_url.rstrip('/')}/bundles"
        self._fetcher = fetcher

    def find(self, root: bytes) -> dict[Release, TargetFile]:
        """All releases that staff have signed now; none where the root names no keys for them.

        root  the pinned root's bytes

        Raises BundleRefused with the attack's name.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            return self._find(root)
        except (RepositoryError, DownloadError) as error:
            raise refusal(error, self._fetcher.last_file) from None

    def _find(self, root: bytes) -> dict[Release, TargetFile]:
        updater = refreshed_updater(self._folder, f"{self._url}/metadata/", self._fetcher, root)
        targets = read_metadata(self._folder, Targets).signed
        role = _delegated(read_metadata(self._folder, Root).signed, targets)
        if role is None or f"{RELEASES}.json" not in self._snapshot_entries():
            return {}
        updater.get_targetinfo(ANY_PATH)
        releases = read_metadata(self._folder, Targets, RELEASES)
        targets.verify_delegate(RELEASES, releases.signed_bytes, releases.signatures)
        if releases.signed.expires <= datetime.now(UTC):
            raise BundleRefused("freeze", "the list of releases has expired")
        found = {_release(file): file for path, file in releases.signed.targets.items()
                 if role.is_delegated_path(path)}  # fmt: skip
        return {release: file for release, file in found.items() if release is not None}

    def download(self, file: TargetFile, to: Path) -> None:
        """Download an archive and verify it. Raises BundleRefused, OSError; then leaves nothing."""
        url = f"{self._url}/targets/{file.hashes['sha256']}.{file.path}"
        try:
            with self._fetcher.download_file(url, file.length) as data, to.open("wb") as target:
                file.verify_length_and_hashes(data)
                data.seek(0)
                while piece := data.read(1 << 20):
                    target.write(piece)
        except (RepositoryError, DownloadError) as error:
            to.unlink(missing_ok=True)
            raise refusal(error, file.path) from None
        except OSError:
            to.unlink(missing_ok=True)
            raise

    def _snapshot_entries(self) -> Mapping[str, Any]:
        entries: Mapping[str, Any] = read_metadata(self._folder, Snapshot).signed.meta
        return entries


def _delegated(root: Root, targets: Targets) -> DelegatedRole | None:
    """The role, with the keys that the root names; None where neither root nor targets have it.

    Raises BundleRefused where the targets delegate to other keys than the root names.
    """
    named = root.unrecognized_fields.get(ROOT_FIELD)
    roles = targets.delegations.roles if targets.delegations else None
    role = roles.get(RELEASES) if roles else None
    if named is None or role is None:
        return None
    assert targets.delegations is not None
    keys = {keyid: key.to_dict() for keyid, key in targets.delegations.keys.items()}
    same = (sorted(role.keyids), role.threshold, keys) == (
        named.get("keyids"), named.get("threshold"), named.get("keys"),
    )  # fmt: skip
    if not same:
        raise BundleRefused(
            "arbitrary software",
            "the targets name other keys for releases of axiom-client than the root does",
        )
    return role


def _release(file: TargetFile) -> Release | None:
    """The facts of an archive; None, and a log line, where they cannot be used."""
    try:
        facts = msgspec.convert(file.unrecognized_fields["custom"][RELEASE_FIELD], ReleaseFacts)
        if file.length > ARCHIVE_BYTES_MAX:
            raise ValueError(f"it has {file.length:,} bytes")
        return Release(
            sha256=file.hashes["sha256"], length=file.length, **msgspec.structs.asdict(facts)
        )
    except (msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
        _log.warning("the release %s is left out: %s", file.path, error)
        return None
