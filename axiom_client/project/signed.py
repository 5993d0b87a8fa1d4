"""The verified metadata of a project: what its staff have signed.

python-tuf checks signatures, thresholds, versions, hashes, expiry and root rotation, of downloaded
metadata and, after a restart, of the metadata on disk. This module decides when to refresh, and
keeps the old metadata until it expires if a refresh is refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface

from axiom_client.project.fetching import CachedMetadata, HttpFetcher, refusal
from axiom_client.project.refusal import BundleRefused
from axiom_client.project.updater import read_metadata, refreshed_updater

REFRESH_SECONDS = 3600.0  # within which a withdrawal is noticed if the server is honest
RETRY_SECONDS = 15.0  # after a failed refresh, so that 2,000 grants do not cause 2,000 requests
WITHDRAWN_FIELD = "x-axiom-withdrawn"  # in the signed targets: {"name@version": sha256}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Verified:
    """Verified targets that were read from the disk or downloaded."""

    targets: Targets
    expires_at: datetime  # the earliest expiry of the four roles
    refreshed_at: float  # monotonic seconds; -inf when it was read from disk

    def knows(self, ref: str) -> bool:
        return f"{ref}.py" in self.targets.targets or ref in withdrawn_in(self.targets)


class SignedTargets:
    """The signed targets of one project. Not thread-safe."""

    def __init__(
        self, folder: Path, metadata_url: str, fetcher: HttpFetcher, refresh_seconds: float
    ) -> None:
        self._folder = folder
        self._metadata_url = metadata_url
        self._fetcher = fetcher
        self._refresh_seconds = refresh_seconds
        self._held: _Verified | None = None
        self._refused: BundleRefused | None = None  # why the last refresh failed, if it did
        self._retry_at = 0.0  # monotonic

    def find(self, root: bytes, ref: str, *, accepted: bool) -> TargetFile:
        """The target signed as ``ref`` (name@version). Raises BundleRefused with the attack's name.

        root      the pinned root's bytes
        accepted  see BundleStore.fetch
        """
        try:
            targets = self._current(root, ref).targets
        except BundleRefused:
            last = self._last_known() if accepted else None
            if last is None or f"{ref}.py" not in last.targets:
                raise
            targets = last
        target = targets.targets.get(f"{ref}.py")
        if target is None:
            if ref in withdrawn_in(targets):
                raise BundleRefused("withdrawn", f"the project has withdrawn {ref}")
            raise BundleRefused("arbitrary software", f"the project never signed {ref}")
        return target

    def hashes(self) -> set[str]:
        """The SHA-256 of everything that may run according to the current metadata."""
        files = self._held.targets.targets.values() if self._held else ()
        return {file.hashes["sha256"] for file in files if "sha256" in file.hashes}

    def _current(self, root: bytes, ref: str) -> _Verified:
        """Metadata that has not expired, refreshed if it is old or does not contain ``ref``.

        However new it is: staff may have published ``ref`` since.
        """
        held, now = self._unexpired(root), time.monotonic()
        known = held is not None and held.knows(ref)
        if held is not None and known and now - held.refreshed_at < self._refresh_seconds:
            return held
        tried = self._refused is None or now >= self._retry_at
        if tried:
            held = self._renew(root, now) or held
        if self._refused is not None and not known:
            why, earlier = self._refused, not tried  # an earlier refusal is no verdict on ``ref``
            raise BundleRefused(why.attack, why.message, temporary=why.temporary or earlier)
        assert held is not None  # a refresh either sets it or is refused
        return held

    def _renew(self, root: bytes, now: float) -> _Verified | None:
        try:
            self._held = self._refresh(root, self._fetcher, now)
        except BundleRefused as refused:
            _log.warning("refused: %s", refused)
            self._refused = refused
            self._retry_at = now + min(RETRY_SECONDS, self._refresh_seconds)
            return None
        self._refused = None
        return self._held

    def _unexpired(self, root: bytes) -> _Verified | None:
        if self._held is None:
            try:
                self._held = self._refresh(root, CachedMetadata(self._folder), float("-inf"))
            except BundleRefused as refused:
                _log.debug("the metadata on disk cannot be used: %s", refused)
        if self._held is not None and self._held.expires_at <= datetime.now(UTC):
            self._held = None
        return self._held

    def _refresh(self, root: bytes, fetcher: FetcherInterface, now: float) -> _Verified:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            refreshed_updater(self._folder, self._metadata_url, fetcher, root)
        except (RepositoryError, DownloadError) as error:
            raise refusal(error, self._fetcher.last_file) from None
        targets = read_metadata(self._folder, Targets).signed
        expiries = [
            targets.expires,
            read_metadata(self._folder, Root).signed.expires,
            read_metadata(self._folder, Timestamp).signed.expires,
            read_metadata(self._folder, Snapshot).signed.expires,
        ]
        return _Verified(targets=targets, expires_at=min(expiries), refreshed_at=now)

    def _last_known(self) -> Targets | None:
        """The last verified targets, even if expired; their signatures are checked again."""
        try:
            root, targets = read_metadata(self._folder, Root), read_metadata(self._folder, Targets)
            root.signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)
        except (OSError, RepositoryError) as error:
            _log.warning("the metadata on disk cannot be used: %s", error)
            return None
        return targets.signed


def withdrawn_in(targets: Targets) -> Mapping[str, str]:
    """The SHA-256 of each version that staff withdrew, by ``name@version``."""
    field = targets.unrecognized_fields.get(WITHDRAWN_FIELD)
    return field if isinstance(field, dict) else {}
