"""A project's root metadata, which is pinned when a host attaches, and its fingerprint."""

from __future__ import annotations

import hashlib
import re

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import Metadata, Root
from tuf.ngclient import FetcherInterface

from axiom_client.project.fetching import LIMITS, refusal
from axiom_client.project.refusal import BundleRefused


def find_root(fetcher: FetcherInterface, metadata_url: str, expected: str | None) -> bytes:
    """The root to pin: the newest, or an older one with the expected fingerprint.

    expected  64 hexadecimal digits, or None to trust what the server sends now

    Raises BundleRefused: wrong root, malformed metadata, unreachable.
    """
    newest = _download(fetcher, metadata_url, "root.json")
    if expected is None or fingerprint(newest) == expected:
        return newest
    version = Metadata[Root].from_bytes(newest).signed.version
    for older in range(version - 1, max(0, version - 1 - LIMITS.max_root_rotations), -1):
        data = _download(fetcher, metadata_url, f"{older}.root.json")
        if fingerprint(data) == expected:
            return data
    raise BundleRefused(
        "wrong root",
        f"the server's root is {fingerprint(newest)}, not {expected}; "
        "compare the fingerprint with the one that the project publishes",
    )


def fingerprint(root: bytes) -> str:
    """SHA-256 (hex) of the root's signed part, which additional signatures do not change."""
    return hashlib.sha256(Metadata[Root].from_bytes(root).signed_bytes).hexdigest()


def normalize(given: str) -> str:
    """A fingerprint written with spaces, colons or capitals as 64 hexadecimal digits."""
    digits = re.sub(r"[\s:-]", "", given.lower().removeprefix("sha256:"))
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise BundleRefused("wrong root", "a root's fingerprint is 64 hexadecimal digits")
    return digits


def _download(fetcher: FetcherInterface, metadata_url: str, name: str) -> bytes:
    try:
        data = fetcher.download_bytes(f"{metadata_url}{name}", LIMITS.root_max_length)
        root = Metadata[Root].from_bytes(data)
        if not isinstance(root.signed, Root):
            raise BundleRefused("malformed metadata", f"{name} is not a root")
        root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    except (RepositoryError, DownloadError) as error:
        raise refusal(error, name) from None
    return data
