"""What those who hold the keys do: change the signed metadata, here or through a request."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast, get_args

import msgspec
from securesystemslib.signer import Signer

from axiom_protocol.manifest import read_manifest
from axiom_server.errors import ExperimentUnknown, SigningFailed, Usage
from axiom_server.project_folder import Folder
from axiom_server.publish.publish import set_state
from axiom_server.store import experiments
from axiom_server.store.database import connect
from axiom_server.trust.hsm import PIN_VARIABLE, open_signer, public_key
from axiom_server.trust.keys import (
    PASSPHRASE_VARIABLE,
    ROLES,
    SERVER_ROLES,
    Keys,
    Role,
    is_encrypted,
    key_files,
    load_keys,
    read_public_key,
)
from axiom_server.trust.metadata import write_file
from axiom_server.trust.root_rotation import propose_root
from axiom_server.trust.signing_request import (
    SigningRequest,
    read_request,
    request_root,
    request_targets,
)

Ask = Callable[[], str]  # asks a person for a passphrase


def trusted_keys(folder: Folder) -> dict[str, Any]:
    """The root's fingerprint and, by role: threshold, keys (id -> file, or empty), expires_at."""
    root, expiries = folder.bundles.metadata.root().signed, folder.bundles.expiries()
    files = [path for role in ROLES for path in key_files(folder.keys, role)]
    public = {path: path.with_suffix(".pub") for path in files}
    here = {read_public_key(pub).keyid: path for path, pub in public.items() if pub.exists()}
    roles = {
        role: {
            "threshold": root.roles[role].threshold,
            "keys": {keyid: str(here.get(keyid, "")) for keyid in root.roles[role].keyids},
            "expires_at": expiries[role].isoformat(),
        }
        for role in ROLES
    }
    return {"root_fingerprint": folder.bundles.fingerprint(), "roles": roles}


def change_root(
    folder: Folder, role: str, add: Iterable[Path], drop: Iterable[str], threshold: int | None
) -> SigningRequest:
    """The request to trust other keys. Raises BundlesError, KeysError, Usage."""
    trusted = folder.bundles.metadata.root()
    added = [read_public_key(path) for path in add]
    proposed = propose_root(trusted, role_named(role), add=added, drop=drop, threshold=threshold)
    return request_root(trusted, proposed)


def change_targets(
    folder: Folder,
    *,
    publish: Iterable[bytes] = (),
    withdraw: Iterable[str] = (),
    extend: bool = False,
) -> SigningRequest | None:
    """The request to publish, withdraw or renew; None when there is nothing to change."""
    metadata, sources = folder.bundles.metadata, list(publish)
    proposal = folder.bundles.propose(publish=sources, withdraw=withdraw, extend=extend)
    if proposal.targets is None:
        return None
    return request_targets(metadata.root(), metadata.targets(), proposal.targets, sources)


def sign_here(folder: Folder, asked: SigningRequest, keys_dir: Path | None, ask: Ask) -> list[str]:
    """Sign with the keys of ``keys_dir`` (else the project's) and make it current; what changed."""
    where = keys_dir or folder.keys
    roles: tuple[Role, ...] = ("targets",) if asked.role == "targets" else ("root", "targets")
    staff = load_keys(where, passphrase(where, roles, ask), roles)
    signed = asked.signed_by(staff.of(asked.role))
    _make_current(folder, signed, staff.merged(load_keys(folder.keys, roles=SERVER_ROLES)))
    return asked.changes()


def sign_file(request: Path, keys_dir: Path, uri: str, ask: Ask, ask_pin: Ask) -> int:
    """Add signatures to a request's file; how many it still lacks.

    uri  a key in a device (hsm:...); empty for the files of ``keys_dir``
    """
    asked = read_request(request)
    signers: Iterable[Signer]
    if uri:
        root = asked.trusted_root().signed
        ids = root.roles[asked.role].keyids
        signers = [open_signer(uri, {keyid: root.keys[keyid] for keyid in ids}, pin(ask_pin))]
    else:
        roles = (asked.role,)
        signers = load_keys(keys_dir, passphrase(keys_dir, roles, ask), roles).of(asked.role)
    signed = asked.signed_by(signers)
    write_file(request, msgspec.json.encode(signed))
    return signed.missing()


def install(folder: Folder, request: Path) -> None:
    """Make a signed request current. Raises BundlesError: signatures lack, or it is outdated."""
    asked = read_request(request)
    asked.changes()
    _make_current(folder, asked, load_keys(folder.keys, roles=SERVER_ROLES))


def role_named(given: str) -> Role:
    """A role as typed. Raises Usage."""
    if given not in get_args(Role):
        raise Usage(f"{given!r} is not a role; the roles are {', '.join(ROLES)}")
    return cast(Role, given)


def passphrase(keys_dir: Path, roles: Iterable[Role], ask: Ask) -> str | None:
    """The passphrase of the keys in a folder; asked for only when one of them is encrypted."""
    if not any(is_encrypted(path) for role in roles for path in key_files(keys_dir, role)):
        return None
    return given_passphrase(ask)


def export_public(uri: str, to: Path, ask_pin: Ask) -> str:
    """Write the public half of a device's key as a ROLE.pub file; its id. Raises KeysError."""
    key = public_key(uri, pin(ask_pin))
    write_file(to, key.keyval["public"].encode())
    return read_public_key(to).keyid


def pin(ask: Ask) -> Ask:
    """A device's PIN, from the environment or the person at the terminal, who is asked once.

    What is returned raises SigningFailed where there is neither.
    """
    known: list[str] = []

    def once() -> str:
        if not known:
            known.append(_given(PIN_VARIABLE, "a PIN", ask))
        return known[0]

    return once


def given_passphrase(ask: Ask) -> str:
    """From the environment, else from the person at the terminal. Raises SigningFailed: neither."""
    return _given(PASSPHRASE_VARIABLE, "a passphrase", ask)


def _given(variable: str, what: str, ask: Ask) -> str:
    if given := os.environ.get(variable):
        return given
    if not sys.stdin.isatty():
        raise SigningFailed(f"{what} is needed and nobody to ask: set {variable}")
    return ask()


def _make_current(folder: Folder, signed: SigningRequest, keys: Keys) -> None:
    if signed.role == "root":
        folder.bundles.install_root(signed.signed_root(), keys)
        return
    sources = [source.encode() for source in signed.sources.values()]
    folder.bundles.install_targets(signed.signed_targets(), sources)
    _record(folder, signed.tried)


def _record(folder: Folder, tried: Mapping[str, dict[str, Any]]) -> None:
    """Tell the database what is signed now: new versions may be deployed, withdrawn ones not."""

    async def work(conninfo: str) -> None:
        async with connect(conninfo) as connection:
            for bundle in folder.bundles.bundles():
                if not bundle.withdrawn:
                    source = folder.bundles.source(bundle.name, bundle.version)
                    manifest = read_manifest(source.decode())
                    shown = tried.get(bundle.sha256)
                    await experiments.record_version(
                        connection, manifest, bundle.sha256, shown,
                        folder.bundles.declarations().get(manifest.ref),
                    )  # fmt: skip
            for bundle in folder.bundles.bundles():
                if bundle.withdrawn:
                    await _retire(connection, f"{bundle.name}@{bundle.version}")

    with folder.database() as conninfo:
        asyncio.run(work(conninfo))


async def _retire(connection: Any, ref: str) -> None:
    try:
        await set_state(connection, ref, "retired", "withdrawn")
    except ExperimentUnknown:
        return  # signed and withdrawn before this database was made
