"""Change the keys that the root trusts for a role, or the role's threshold.

A new root is signed with the keys of the old root and with its own. Clients that trust the old root
then accept the new one automatically.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata, Root

from axiom_server.trust.keys import (
    SERVER_ROLES,
    STAFF_ROLES,
    Keys,
    Role,
    key_files,
    load_keys,
    make_private_folder,
    read_key,
    write_key,
)
from axiom_server.trust.metadata import ROOT_LIFETIME, BundlesError, Clock, sign, utc_now
from axiom_server.trust.repository import Repository


def propose_root(
    current: Metadata[Root],
    role: Role,
    *,
    add: Iterable[Key] = (),
    drop: Iterable[str] = (),
    threshold: int | None = None,
    clock: Clock = utc_now,
) -> Metadata[Root]:
    """An unsigned root in which ``role`` has other keys or another threshold.

    add        keys that are trusted for the role from now on
    drop       ids of keys that are no longer trusted for it
    threshold  how many signatures the role needs; None: unchanged

    Raises BundlesError when the role has no such key, or would have fewer keys than its threshold.
    """
    root = copy.deepcopy(current.signed)
    for key in add:
        root.add_key(key, role)
    for keyid in drop:
        if keyid not in root.roles[role].keyids:
            raise BundlesError(f"{role} has no key {keyid}; axiom-server keys list shows them")
        root.revoke_key(keyid, role)
    root.roles[role].threshold = threshold or root.roles[role].threshold
    if not 1 <= root.roles[role].threshold <= len(root.roles[role].keyids):
        raise BundlesError(
            f"{role} would have {len(root.roles[role].keyids)} keys and need "
            f"{root.roles[role].threshold} signatures; add keys or lower the threshold"
        )
    root.version += 1
    root.expires = clock() + ROOT_LIFETIME
    return Metadata(root)


def rotate(
    repository: Repository, keys_dir: Path, role: Role, passphrase: str | None = None
) -> list[Path]:
    """Replace every key of a role by a new one. Needs the root keys.

    The new keys get the file names of the old ones, which move to the folder ``retired``. After an
    interruption, a second call completes it. Returns the new files.

    keys_dir  folder of the staff's keys; the server's are in the repository's keys folder

    Raises KeysError, BundlesError.
    """
    staff = load_keys(keys_dir, passphrase, STAFF_ROLES)
    old = staff.merged(load_keys(repository.keys_dir, roles=SERVER_ROLES))
    home = repository.keys_dir if role in SERVER_ROLES else keys_dir
    new = _next_keys(home, role, len(old.of(role)), passphrase)
    keys = Keys(signers={**old.signers, role: tuple(new.values())})
    trusted = repository.metadata.root()
    before = trusted.signed.roles[role].keyids
    interrupted = {signer.public_key.keyid for signer in new.values()} <= set(before)
    if not interrupted:
        add = [signer.public_key for signer in new.values()]
        root = propose_root(trusted, role, add=add, drop=list(before))
        sign(root, (*old.of("root"), *keys.of("root")))
        repository.install_root(root, keys)
    paths = [_install_key(path, home) for path in new]
    if interrupted and role == "targets":
        repository.extend(keys)
    elif interrupted:
        repository.refresh_online(force=True)
    return paths


def _next_keys(
    keys_dir: Path, role: Role, count: int, passphrase: str | None
) -> dict[Path, Signer]:
    folder = keys_dir / "next"
    make_private_folder(folder)
    secret = passphrase if role in STAFF_ROLES else None
    for number in range(len(key_files(folder, role)) + 1, count + 1):
        name = f"{role}.pem" if number == 1 else f"{role}-{number}.pem"
        write_key(folder / name, Ed25519PrivateKey.generate(), secret)
    return {path: read_key(path, secret) for path in key_files(folder, role)}


def _install_key(new: Path, keys_dir: Path) -> Path:
    path, retired = keys_dir / new.name, keys_dir / "retired"
    make_private_folder(retired)
    if path.exists():
        number = 1 + len(list(retired.glob("*.pem")))
        os.replace(path, retired / f"{path.stem}.{number}.pem")
    os.replace(new.with_suffix(".pub"), path.with_suffix(".pub"))
    os.replace(new, path)
    return path
