"""Change the signed metadata, with keys on this machine or with a request to sign elsewhere."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import Signer

from axiom_protocol.durable_file import replace_file
from axiom_protocol.manifest import read_manifest
from axiom_protocol.release import RELEASES
from axiom_protocol.verdicts.study_design import StudyDesign
from axiom_server.errors import ExperimentUnknown, SigningFailed, Usage
from axiom_server.project_folder import ProjectFolder
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
from axiom_server.trust.releases import delegation
from axiom_server.trust.root_rotation import propose_root
from axiom_server.trust.signing_request import (
    SigningRequest,
    read_request,
    request_root,
    request_targets,
)

Prompt = Callable[[], str]  # asks a person for a passphrase


def trusted_keys(folder: ProjectFolder) -> dict[str, Any]:
    """The root fingerprint and, by role: threshold, keys (id -> file or ""), expires_at."""
    root, expiries = folder.bundles.metadata.root().signed, folder.bundles.expiries()
    files = [path for role in (*ROLES, RELEASES) for path in key_files(folder.keys, role)]
    public = {path: path.with_suffix(".pub") for path in files}
    here = {read_public_key(pub).keyid: path for path, pub in public.items() if pub.exists()}
    roles: dict[str, dict[str, Any]] = {
        role: {
            "threshold": root.roles[role].threshold,
            "keys": {keyid: str(here.get(keyid, "")) for keyid in root.roles[role].keyids},
            "expires_at": expiries[role].isoformat(),
        }
        for role in ROLES
    }
    if (named := delegation(root)) is not None and named.roles is not None:
        trusted, releases = named.roles[RELEASES], folder.bundles.metadata.releases()
        roles[RELEASES] = {
            "threshold": trusted.threshold,
            "keys": {keyid: str(here.get(keyid, "")) for keyid in trusted.keyids},
            "expires_at": releases.signed.expires.isoformat() if releases else "never: no release",
        }
    return {"root_fingerprint": folder.bundles.fingerprint(), "roles": roles}


def change_root(
    folder: ProjectFolder,
    role: str,
    add: Iterable[Path],
    drop: Iterable[str],
    threshold: int | None,
) -> SigningRequest:
    """A request to change the trusted keys. Raises BundlesError, KeysError, Usage."""
    trusted = folder.bundles.metadata.root()
    added = [read_public_key(path) for path in add]
    proposed = propose_root(trusted, parse_role(role), add=added, drop=drop, threshold=threshold)
    return request_root(trusted, proposed)


def change_targets(
    folder: ProjectFolder,
    *,
    publish: Iterable[bytes] = (),
    withdraw: Iterable[str] = (),
    studies: Iterable[tuple[StudyDesign, str]] = (),
    extend: bool = False,
) -> SigningRequest | None:
    """A request to publish, withdraw, declare studies or renew; None when nothing would change."""
    metadata, sources, declared = folder.bundles.metadata, list(publish), list(studies)
    proposal = folder.bundles.propose(
        publish=sources, withdraw=withdraw, studies=declared, extend=extend
    )
    if proposal.targets is None:
        return None
    return request_targets(
        metadata.root(), metadata.targets(), proposal.targets, sources, [d for d, _ in declared]
    )


def sign_here(
    folder: ProjectFolder, signing_request: SigningRequest, keys_dir: Path | None, ask: Prompt
) -> list[str]:
    """Sign with the keys in ``keys_dir`` (default: the project's) and put it into effect.

    Returns the changes, one line each.
    """
    keys_folder = keys_dir or folder.keys
    roles: tuple[Role, ...] = (
        ("root", "targets") if signing_request.role == "root" else (signing_request.role,)
    )
    staff = load_keys(keys_folder, passphrase(keys_folder, roles, ask), roles)
    signed = signing_request.signed_by(staff.of(signing_request.role))
    _put_into_effect(folder, signed, staff.merged(load_keys(folder.keys, roles=SERVER_ROLES)))
    return signing_request.changes()


def sign_file(request: Path, keys_dir: Path, uri: str, ask: Prompt, ask_pin: Prompt) -> int:
    """Add signatures to a request file; returns how many are still missing.

    uri  a key in a device (hsm:...); empty for the files of ``keys_dir``
    """
    signing_request = read_request(request)
    signers: Iterable[Signer]
    if uri:
        signers = [open_signer(uri, signing_request.trusted_keys(), cached_pin(ask_pin))]
    else:
        roles = (signing_request.role,)
        signers = load_keys(keys_dir, passphrase(keys_dir, roles, ask), roles).of(
            signing_request.role
        )
    signed = signing_request.signed_by(signers)
    replace_file(request, msgspec.json.encode(signed))
    return signed.missing_signatures()


def install(folder: ProjectFolder, request: Path) -> None:
    """Put a signed request into effect.

    Raises BundlesError when signatures are missing or the request is outdated.
    """
    signing_request = read_request(request)
    signing_request.changes()
    _put_into_effect(folder, signing_request, load_keys(folder.keys, roles=SERVER_ROLES))


def parse_role(given: str) -> Role:
    """The role with this name. Raises Usage."""
    if given not in ROLES:
        raise Usage(f"{given!r} is not a role; the roles are {', '.join(ROLES)}")
    return given


def passphrase(keys_dir: Path, roles: Iterable[Role], ask: Prompt) -> str | None:
    """The passphrase of the keys in a folder; None when none of them is encrypted."""
    if not any(is_encrypted(path) for role in roles for path in key_files(keys_dir, role)):
        return None
    return given_passphrase(ask)


def export_public(uri: str, to: Path, ask_pin: Prompt) -> str:
    """Write the public key of a device to a ROLE.pub file; returns its id. Raises KeysError."""
    key = public_key(uri, cached_pin(ask_pin))
    replace_file(to, key.keyval["public"].encode())
    return read_public_key(to).keyid


def cached_pin(ask: Prompt) -> Prompt:
    """A function that returns a device's PIN, from the environment or asked for once.

    It raises SigningFailed where there is no terminal to ask at.
    """
    known: list[str] = []

    def once() -> str:
        if not known:
            known.append(_read_secret(PIN_VARIABLE, "a PIN", ask))
        return known[0]

    return once


def given_passphrase(ask: Prompt) -> str:
    """A passphrase from the environment, or asked for at the terminal. Raises SigningFailed."""
    return _read_secret(PASSPHRASE_VARIABLE, "a passphrase", ask)


def _read_secret(variable: str, what: str, ask: Prompt) -> str:
    if given := os.environ.get(variable):
        return given
    if not sys.stdin.isatty():
        raise SigningFailed(
            f"{what} is needed, and there is no terminal to ask for it: set {variable}"
        )
    return ask()


def _put_into_effect(folder: ProjectFolder, signed: SigningRequest, keys: Keys) -> None:
    if signed.role == "root":
        folder.bundles.install_root(signed.signed_root(), keys)
        return
    if signed.role == RELEASES:
        folder.bundles.install_releases(signed.signed_targets())
        return
    sources = [source.encode() for source in signed.sources.values()]
    folder.bundles.install_targets(signed.signed_targets(), sources)
    _record_versions(folder, signed.tried)


def _record_versions(folder: ProjectFolder, tried: Mapping[str, dict[str, Any]]) -> None:
    """Store signed changes in the database: new versions, and withdrawn versions as retired."""

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
        return  # signed and withdrawn before this database existed
