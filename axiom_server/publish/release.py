"""Release axiom-client to hosts that update themselves: whose keys may, and which archives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Targets

from axiom_protocol.release import ARCHIVE_BYTES_MAX, RELEASES
from axiom_server.errors import FileUnreadable, ReleaseMalformed
from axiom_server.project_folder import ProjectFolder
from axiom_server.trust.keys import key_files, read_public_key, write_key
from axiom_server.trust.release_archive import Archive, read_archive
from axiom_server.trust.releases import delegating, delegation, name_keys
from axiom_server.trust.signing_request import (
    SigningRequest,
    request_releases,
    request_root,
    request_targets,
)


def make_key(keys_dir: Path, passphrase: str | None) -> Path:
    """Create the first key of the role; returns its public key's file. Raises KeysError."""
    path = keys_dir / f"{RELEASES}.pem"
    write_key(path, Ed25519PrivateKey.generate(), passphrase)
    return path.with_suffix(".pub")


def public_keys(keys_dir: Path) -> list[Path]:
    """The public keys of the role in a folder of keys."""
    return [path.with_suffix(".pub") for path in key_files(keys_dir, RELEASES)]


def change_trust(
    folder: ProjectFolder, keys: Sequence[Path], threshold: int
) -> SigningRequest | None:
    """The next request towards these keys: for the root to name them, then to delegate to them.

    None when both are in effect. Raises BundlesError, KeysError.
    """
    metadata = folder.bundles.metadata
    root, public = metadata.root(), [read_public_key(path) for path in keys]
    named = delegation(root.signed)
    role = named.roles[RELEASES] if named and named.roles else None
    same = role is not None and (set(role.keyids), role.threshold) == (
        {key.keyid for key in public}, threshold,
    )  # fmt: skip
    if not same:
        return request_root(root, name_keys(root, public, threshold))
    proposed = folder.bundles.propose_delegation()
    return request_targets(root, metadata.targets(), proposed, []) if proposed else None


def change_releases(
    folder: ProjectFolder,
    *,
    archives: Sequence[Path] = (),
    withdraw: str = "",
    extend: bool = False,
) -> SigningRequest | None:
    """A request to release archives, withdraw a version or renew; None when nothing would change.

    Raises ReleaseMalformed, FileUnreadable, NotFound, BundlesError.
    """
    found = [read_file(path) for path in archives]
    proposed = folder.bundles.propose_releases(add=found, withdraw=withdraw, extend=extend)
    if proposed is None:
        return None
    for archive in found:
        folder.bundles.keep_archive(archive)
    return request_releases(folder.bundles.metadata.root(), _verified(folder), proposed)


def _verified(folder: ProjectFolder) -> Metadata[Targets] | None:
    """The current releases, if the present keys signed them; a new key signs all that it lists."""
    current = folder.bundles.metadata.releases()
    trusted = delegating(folder.bundles.metadata.root().signed)
    if current is None:
        return None
    try:
        trusted.verify_delegate(RELEASES, current.signed_bytes, current.signatures)
    except RepositoryError:
        return None
    return current


def read_file(path: Path) -> Archive:
    """Read an archive. Raises FileUnreadable, ReleaseMalformed."""
    try:
        with path.open("rb") as file:
            return read_archive(file.read(ARCHIVE_BYTES_MAX + 1))
    except OSError as error:
        raise FileUnreadable(f"{path} cannot be read: {error.strerror}") from None
    except ReleaseMalformed as problem:
        raise ReleaseMalformed(f"{path}: {problem}") from None
