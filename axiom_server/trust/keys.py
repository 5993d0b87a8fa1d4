"""The project's signing keys: Ed25519, one PKCS#8 file each, encrypted if a passphrase is given.

Root and targets keys belong to staff and are best kept off the server. Snapshot and timestamp keys
belong to the server and are not encrypted, because `serve` signs with them unattended. Several keys
of a role are ROLE.pem, ROLE-2.pem, ROLE-3.pem ...
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey

from axiom_protocol.durable_file import PRIVATE, replace_file
from axiom_server.errors import SigningFailed

Role = Literal["root", "targets", "snapshot", "timestamp", "client-releases"]
ROLES: tuple[Role, ...] = ("root", "targets", "snapshot", "timestamp")  # every project has these
STAFF_ROLES: tuple[Role, ...] = ("root", "targets")  # these decide which code volunteers run
SERVER_ROLES: tuple[Role, ...] = ("snapshot", "timestamp")  # these show that the list is current
PASSPHRASE_VARIABLE = "AXIOM_KEYS_PASSPHRASE"
PASSPHRASE_LENGTH_MIN = 12  # characters; a copied file can be attacked offline


class KeysError(SigningFailed):
    """A key cannot be created, read or used; the message says what to do next."""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The signers on this machine, by role. A role whose keys are elsewhere has none."""

    signers: Mapping[Role, tuple[Signer, ...]]

    def of(self, role: Role) -> tuple[Signer, ...]:
        """The signers of a role, at least one. Raises KeysError when there is none."""
        found = self.signers.get(role, ())
        if not found:
            raise KeysError(
                f"the {role} key is not here: give the folder that holds {role}.pem (--keys), or "
                "write a request (axiom-server keys request) and sign it where the key is"
            )
        return found

    def merged(self, other: Keys) -> Keys:
        """These keys, with those of ``other`` for roles that have none here."""
        names = {*self.signers, *other.signers}
        roles = {role: self.signers.get(role) or other.signers.get(role, ()) for role in names}
        return Keys(signers=roles)

    def has(self, role: Role) -> bool:
        """Whether there is a key of the role."""
        return bool(self.signers.get(role))


def init_keys(
    keys_dir: Path, passphrase: str | None, counts: Mapping[Role, int] | None = None
) -> list[Path]:
    """Create the first keys of every role, and return their files.

    passphrase  encrypts the staff's keys; with None they are only protected by file mode 0600
    counts      how many keys a role gets (default: one); a threshold needs as many

    Raises KeysError when a key exists: no client would accept a key that replaces it.
    """
    names = [path for role in ROLES for path in _names(role, (counts or {}).get(role, 1))]
    if there := sorted(name for name in names if (keys_dir / name).exists()):
        raise KeysError(
            f"{keys_dir / there[0]} exists already: keep it (clients trust it), "
            "or replace it with axiom-server keys rotate"
        )
    make_private_folder(keys_dir)
    for name in names:
        secret = passphrase if name.startswith(STAFF_ROLES) else None
        write_key(keys_dir / name, Ed25519PrivateKey.generate(), secret)
    return [keys_dir / name for name in names]


def load_keys(keys_dir: Path, passphrase: str | None = None, roles: Iterable[Role] = ROLES) -> Keys:
    """Read the keys of ``roles`` in ``keys_dir``; missing files are left out. Raises KeysError."""
    return Keys(
        signers={
            role: tuple(read_key(path, passphrase) for path in key_files(keys_dir, role))
            for role in roles
        }
    )


def key_files(keys_dir: Path, role: Role) -> list[Path]:
    """The key files of a role in ``keys_dir``, in order."""
    first = keys_dir / f"{role}.pem"
    others = sorted(keys_dir.glob(f"{role}-*.pem"), key=lambda path: (len(path.name), path.name))
    return [first, *others] if first.exists() else others


def read_key(path: Path, passphrase: str | None) -> CryptoSigner:
    """Read one key file. Raises KeysError when it is missing, locked or of another kind."""
    encrypted = is_encrypted(path)
    if encrypted and not passphrase:
        raise KeysError(
            f"{path} is encrypted: give its passphrase, at a terminal or in {PASSPHRASE_VARIABLE}"
        )
    try:
        key = load_pem_private_key(
            path.read_bytes(), passphrase.encode() if encrypted and passphrase else None
        )
    except ValueError:
        why = "the passphrase is wrong" if encrypted else "it is not a PKCS#8 private key"
        raise KeysError(f"cannot use the key {path}: {why}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeysError(f"cannot use the key {path}: it is not an Ed25519 key")
    return CryptoSigner(key)


def write_key(path: Path, key: Ed25519PrivateKey, passphrase: str | None) -> None:
    """Write a new key file that only its owner can read, and its public key, ROLE.pub.

    Raises KeysError when the passphrase is too short.
    """
    if passphrase is not None and len(passphrase) < PASSPHRASE_LENGTH_MIN:
        raise KeysError(f"the passphrase needs at least {PASSPHRASE_LENGTH_MIN} characters")
    how: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        how = BestAvailableEncryption(passphrase.encode())
    if path.exists():
        raise KeysError(f"{path} is already there, and a key is never overwritten")
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    replace_file(path.with_suffix(".pub"), public, PRIVATE)
    # Written last, so that a key file is always complete and has its .pub, even after a crash.
    replace_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how), PRIVATE)


def read_public_key(path: Path) -> SSlibKey:
    """Read a public key, ROLE.pub. Raises KeysError."""
    try:
        return SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))
    except OSError as error:
        raise KeysError(f"cannot read the key {path}: {error.strerror}") from None
    except ValueError:
        raise KeysError(f"{path} is not a public key (PEM); give a ROLE.pub file") from None


def protect_key(path: Path, passphrase: str) -> bool:
    """Encrypt a key file in place; False when it is encrypted already. Raises KeysError."""
    if is_encrypted(path):
        return False
    signer = read_key(path, None)
    key = load_pem_private_key(signer.private_bytes, None)
    assert isinstance(key, Ed25519PrivateKey)  # read_key accepts no other
    partial = path.with_name(f"{path.stem}.protected.pem")
    partial.unlink(missing_ok=True)
    write_key(partial, key, passphrase)
    os.replace(partial, path)
    partial.with_suffix(".pub").unlink()
    return True


def is_encrypted(path: Path) -> bool:
    """Whether a key file needs a passphrase. Raises KeysError."""
    try:
        return b"ENCRYPTED PRIVATE KEY" in path.read_bytes()
    except OSError as error:
        raise KeysError(f"cannot read the key {path}: {error.strerror}") from None


def make_private_folder(folder: Path) -> None:
    """Create a folder that only its owner can enter."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _names(role: Role, count: int) -> list[str]:
    return [f"{role}.pem"] + [f"{role}-{n}.pem" for n in range(2, count + 1)]
