"""The bundles of one project: downloaded, verified against the pinned root, stored by their hash.

Only signed metadata decides whether a script may run: a compromised server can withhold bundles,
but not change them. A file's hash is checked again each time it is used.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import httpx
from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import TargetFile

from axiom_client.project.fetching import HttpFetcher, refusal
from axiom_client.project.refusal import Attack, BundleRefused
from axiom_client.project.roots import find_root, fingerprint, normalize
from axiom_client.project.signed import REFRESH_SECONDS, SignedTargets
from axiom_protocol.durable_file import PRIVATE, replace_file
from axiom_protocol.manifest import SCRIPT_BYTES_MAX, Manifest, ManifestError, read_manifest

__all__ = ["BundleRefused", "BundleStore"]

_REF = re.compile(r"[a-z][a-z0-9_]{0,63}@\d{1,5}\.\d{1,5}\.\d{1,5}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)


class BundleStore:
    """Verified bundles in ``folder``. The methods block on disk and network.

    root_fingerprint  of the pinned root, by which it is fetched again if the folder was emptied or
        damaged; empty: not known

    At most one process may use a folder at a time.
    """

    def __init__(
        self,
        folder: Path,
        project_url: str,
        client: httpx.Client,
        *,
        root_fingerprint: str = "",
        fetcher: HttpFetcher | None = None,
        refresh_seconds: float = REFRESH_SECONDS,
    ) -> None:
        self.folder = folder
        self._root_fingerprint = root_fingerprint
        self._url = f"{project_url.rstrip('/')}/bundles"
        self._fetcher = fetcher or HttpFetcher(client)
        self._signed = SignedTargets(
            folder / "metadata", f"{self._url}/metadata/", self._fetcher, refresh_seconds
        )
        self._lock = threading.Lock()
        self._manifests: dict[str, Manifest] = {}

    def pin_root(self, expected_fingerprint: str | None) -> str:
        """Download the project's root metadata, pin it, return its fingerprint (SHA-256, hex).

        expected_fingerprint  the fingerprint that the project publishes elsewhere. It may be of
            any root in the project's history, which is then pinned. None: trust the root that the
            server sends now.

        If a root is pinned already, it is only compared. Raises BundleRefused.
        """
        expected = normalize(expected_fingerprint) if expected_fingerprint else None
        with self._lock:
            if not self._pin.exists():
                root = find_root(self._fetcher, f"{self._url}/metadata/", expected)
                replace_file(self._pin, root, PRIVATE)
            pinned = fingerprint(self._pinned())
        if expected not in (None, pinned):
            raise BundleRefused(
                "wrong root",
                f"this host has pinned the root {pinned}, not {expected}; "
                "if it was pinned by mistake, detach from the project and attach again",
            )
        return pinned

    def fetch(self, experiment: str, version: str, sha256: str, *, accepted: bool = False) -> Path:
        """The verified file of a bundle. Raises BundleRefused with the attack's name, or OSError.

        accepted  the grant was verified before and is in the journal: if the metadata has expired
            while the host was offline, the stored bundle may still run unless it is known to be
            withdrawn.
        """
        ref = f"{experiment}@{version}"
        with _refusals_logged():
            if not _REF.fullmatch(ref) or not _SHA256.fullmatch(sha256):
                raise BundleRefused("arbitrary software", f"{ref!r} is not the name of a bundle")
            with self._lock:
                return self._fetch(ref, sha256, accepted)

    def manifest(
        self, experiment: str, version: str, sha256: str, *, accepted: bool = False
    ) -> Manifest:
        """A bundle's manifest, read from its verified bytes. Raises as ``fetch`` does."""
        data = self.fetch(experiment, version, sha256, accepted=accepted).read_bytes()
        with _refusals_logged():
            if hashlib.sha256(data).hexdigest() != sha256:
                raise BundleRefused("wrong software", "the cached bundle changed while it was read")
            if sha256 not in self._manifests:
                self._manifests[sha256] = _read_manifest(data, f"{experiment}@{version}")
            return self._manifests[sha256]

    def _fetch(self, ref: str, sha256: str, accepted: bool) -> Path:
        target = self._signed.find(self._pinned(), ref, accepted=accepted)
        if target.hashes.get("sha256") != sha256:
            raise BundleRefused("wrong software", f"{ref} was not signed with the hash {sha256}")
        path = self.folder / "sources" / f"{sha256}.py"
        if not _intact(path, sha256):
            replace_file(path, self._download(target, sha256), PRIVATE)
            self._delete_unlisted()
        return path

    def _download(self, target: TargetFile, sha256: str) -> bytes:
        if target.length > SCRIPT_BYTES_MAX:
            raise BundleRefused("endless data", f"{target.path} is {target.length} bytes")
        url = f"{self._url}/targets/{sha256}.{target.path}"
        try:
            data = self._fetcher.download_bytes(url, target.length)
            target.verify_length_and_hashes(data)
        except (RepositoryError, DownloadError) as error:
            raise refusal(error, target.path) from None
        return data

    def _delete_unlisted(self) -> None:
        """Delete sources that may not run any more, so that the cache stays small."""
        if listed := self._signed.hashes():
            for path in self.folder.glob("sources/*.py"):
                if path.stem not in listed:
                    path.unlink(missing_ok=True)

    @property
    def _pin(self) -> Path:
        return self.folder / "pinned.root.json"

    def _pinned(self) -> bytes:
        """The pinned root; a lost or damaged one is fetched again if its fingerprint is known."""
        pinned = self._pin.read_bytes() if self._pin.exists() else b""
        if not self._root_fingerprint:
            return pinned or self._refuse_without_root()
        if not _is_root(pinned, self._root_fingerprint):
            _log.warning("%s was lost or changed on disk; it is fetched again", self._pin)
            pinned = find_root(self._fetcher, f"{self._url}/metadata/", self._root_fingerprint)
            replace_file(self._pin, pinned, PRIVATE)
        return pinned

    def _refuse_without_root(self) -> NoReturn:
        raise BundleRefused(
            "not attached", f"no root is pinned in {self.folder}; attach to the project first"
        )


@contextmanager
def _refusals_logged() -> Iterator[None]:
    try:
        yield
    except BundleRefused as refused:
        _log.warning("refused: %s", refused)
        raise


def _read_manifest(source: bytes, ref: str) -> Manifest:
    try:
        manifest = read_manifest(source.decode())
    except (ManifestError, UnicodeDecodeError) as error:
        extra = str(error).startswith("dependencies:")
        why: Attack = "extraneous dependencies" if extra else "wrong software"
        raise BundleRefused(why, f"{ref}: {error}") from None
    if manifest.ref != ref:
        raise BundleRefused(
            "wrong software", f"the bundle {ref} contains the manifest of {manifest.ref}"
        )
    return manifest


def _is_root(data: bytes, expected_fingerprint: str) -> bool:
    try:
        return fingerprint(data) == expected_fingerprint
    except RepositoryError:
        return False


def _intact(path: Path, sha256: str) -> bool:
    try:
        intact = hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except FileNotFoundError:
        return False
    if not intact:
        _log.warning("%s was changed on disk; it is fetched again", path)
    return intact
