"""The commands for those who hold the keys: keys, sign, install, withdraw."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, cast, get_args

import msgspec
import typer
from securesystemslib.signer import Signer

from axiom_server import rotation
from axiom_server.bundles import Repository
from axiom_server.errors import Usage
from axiom_server.folder import Folder, find
from axiom_server.keys import (
    PASSPHRASE_VARIABLE,
    ROLES,
    SERVER_ROLES,
    STAFF_ROLES,
    Keys,
    KeysError,
    Role,
    init_keys,
    is_encrypted,
    key_files,
    load_keys,
    protect_key,
    read_public_key,
)
from axiom_server.metadata import write_file
from axiom_server.signing import (
    SigningRequest,
    open_signer,
    read_request,
    request_root,
    request_targets,
)

keys_app = typer.Typer(no_args_is_help=True, help="Signing keys: make, list, protect, replace.")

Dir = Annotated[Path | None, typer.Option("--dir", help="The project's folder.")]
KeysDir = Annotated[
    Path | None, typer.Option("--keys", help="Folder of the keys; the project's own, unless said.")
]
ToRequest = Annotated[
    Path | None,
    typer.Option("--request", help="Write a signing request instead: the keys are elsewhere."),
]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]

MOVE_AWAY = """\
root.pem and targets.pem decide which code volunteers run: who copies them signs in your name.
  1. Copy them to a medium that is kept offline (and a second one, elsewhere).
  2. Remove them from here. The server needs only snapshot.pem and timestamp.pem.
  3. To publish then: axiom-server publish FILE --request R.json, axiom-server sign R.json where the
     keys are, and axiom-server install R.json here."""


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(keys_app, name="keys")
    app.command("sign")(sign_request)
    app.command("install")(install)
    app.command("withdraw")(withdraw)


@keys_app.command("init")
def make(
    folder: Annotated[Path, typer.Argument(help="A new folder for the keys.")],
    root_keys: Annotated[int, typer.Option(min=1, max=20)] = 1,
    targets_keys: Annotated[int, typer.Option(min=1, max=20)] = 1,
    no_passphrase: Annotated[bool, typer.Option("--no-passphrase")] = False,
) -> None:
    """Make the keys of a new project, before axiom-server init, to be moved where they belong."""
    passphrase = None if no_passphrase else _new_passphrase()
    made = init_keys(folder, passphrase, {"root": root_keys, "targets": targets_keys})
    for path in made:
        typer.echo(f"{path}  {'encrypted' if is_encrypted(path) else 'not encrypted'}")
    typer.echo(MOVE_AWAY)


@keys_app.command("list")
def show(directory: Dir = None, as_json: Json = False) -> None:
    """Which keys the project trusts, where they are, and until when its metadata holds."""
    folder = find(directory)
    root, expiries = folder.bundles.metadata.root().signed, folder.bundles.expiries()
    here = {
        read_public_key(path.with_suffix(".pub")).keyid: path
        for role in ROLES
        for path in key_files(folder.keys, role)
        if path.with_suffix(".pub").exists()
    }
    roles = {
        role: {
            "threshold": root.roles[role].threshold,
            "keys": {keyid: str(here.get(keyid, "")) for keyid in root.roles[role].keyids},
            "expires_at": expiries[role].isoformat(),
        }
        for role in ROLES
    }
    fingerprint = folder.bundles.fingerprint()
    if as_json:
        typer.echo(json.dumps({"root_fingerprint": fingerprint, "roles": roles}))
        return
    typer.echo(f"root fingerprint  {fingerprint}")
    for role in ROLES:
        threshold = root.roles[role].threshold
        typer.echo(
            f"{role}: {threshold} of {len(root.roles[role].keyids)} signatures, "
            f"holds until {expiries[role]:%Y-%m-%d %H:%M} UTC"
        )
        for keyid in root.roles[role].keyids:
            typer.echo(f"  {keyid}  {here.get(keyid, 'kept elsewhere')}")


@keys_app.command("protect")
def protect(directory: Dir = None, keys_dir: KeysDir = None) -> None:
    """Encrypt the root and targets keys with a passphrase, in place."""
    folder = keys_dir or find(directory).keys
    passphrase = _new_passphrase()
    for path in [path for role in STAFF_ROLES for path in key_files(folder, role)]:
        done = protect_key(path, passphrase)
        typer.echo(f"{path}  {'encrypted now' if done else 'was encrypted already'}")


@keys_app.command("rotate")
def rotate(
    role: Annotated[str, typer.Argument(help="root, targets, snapshot or timestamp.")],
    directory: Dir = None,
    keys_dir: KeysDir = None,
) -> None:
    """Replace the keys of a role; clients follow by themselves. Needs the root keys at hand."""
    folder, checked = find(directory), _role(role)
    where = keys_dir or folder.keys
    passphrase = _passphrase(where, STAFF_ROLES)
    for path in rotation.rotate(folder.bundles, where, checked, passphrase):
        typer.echo(f"new {checked} key: {path}")
    typer.echo(f"root fingerprint  {folder.bundles.fingerprint()}  (publish this one from now on)")


@keys_app.command("change")
def change(
    role: Annotated[str, typer.Argument(help="root, targets, snapshot or timestamp.")],
    add: Annotated[list[Path] | None, typer.Option(help="A public key (ROLE.pub).")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="A key id, as keys list shows.")] = None,
    threshold: Annotated[int | None, typer.Option(min=1, max=20)] = None,
    directory: Dir = None,
    keys_dir: KeysDir = None,
    request: ToRequest = None,
) -> None:
    """Trust further keys for a role, distrust some, or ask for more signatures than one."""
    folder = find(directory)
    trusted = folder.bundles.metadata.root()
    proposed = rotation.propose_root(
        trusted,
        _role(role),
        add=[read_public_key(path) for path in add or ()],
        drop=drop or (),
        threshold=threshold,
    )
    _sign_or_ask(folder, request_root(trusted, proposed), keys_dir, request)


@keys_app.command("renew")
def renew(directory: Dir = None, keys_dir: KeysDir = None, request: ToRequest = None) -> None:
    """Sign the same bundles again before the targets metadata expires (after 180 days)."""
    _targets(find(directory), keys_dir, request, extend=True)


@keys_app.command("request")
def ask(
    files: Annotated[list[Path], typer.Argument(help="Experiments to publish.")],
    request: Annotated[Path, typer.Option("--to", help="The request's file.")],
    directory: Dir = None,
) -> None:
    """Write a request to publish experiments, to be signed where the targets key is."""
    sources = [path.read_bytes() for path in files]
    _targets(find(directory), None, request, publish=sources)


def withdraw(
    version: Annotated[str, typer.Argument(help="NAME@VERSION")],
    directory: Dir = None,
    keys_dir: KeysDir = None,
    request: ToRequest = None,
) -> None:
    """Take a published version back: no host starts it any more."""
    _targets(find(directory), keys_dir, request, withdraw=[version])


def sign_request(
    request: Annotated[Path, typer.Argument(help="A file that --request wrote.")],
    keys_dir: Annotated[Path, typer.Option("--keys", help="Folder of the keys.")] = Path(),
    signer: Annotated[
        str, typer.Option(help="A key that is not a file, as securesystemslib names it: hsm:...")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Add this machine's signatures to a request, after showing what it would change."""
    asked = read_request(request)
    typer.echo(f"for the project with the root fingerprint {asked.fingerprint()}:")
    for line in asked.changes():
        typer.echo(f"  {line}")
    if not yes and not typer.confirm("Sign this?"):
        raise Usage("nothing was signed")
    signers: Iterable[Signer]
    if signer:
        signers = open_signer(signer, asked)
    else:
        roles: tuple[Role, ...] = (asked.role,)
        keys = load_keys(keys_dir, _passphrase(keys_dir, roles), roles)
        signers = keys.of(asked.role)
    signed = asked.signed_by(signers)
    write_file(request, msgspec.json.encode(signed))
    missing = signed.missing()
    then = f"{missing} more signatures are needed" if missing else "axiom-server install it now"
    typer.echo(f"signed; {then}")


def install(
    request: Annotated[Path, typer.Argument(help="A signed request.")],
    directory: Dir = None,
) -> None:
    """Make a signed request current on the server."""
    folder = find(directory)
    _install(folder, read_request(request), load_keys(folder.keys, roles=SERVER_ROLES))
    typer.echo("installed")


def _targets(
    folder: Folder,
    keys_dir: Path | None,
    request: Path | None,
    *,
    publish: Iterable[bytes] = (),
    withdraw: Iterable[str] = (),
    extend: bool = False,
) -> None:
    metadata, sources = folder.bundles.metadata, list(publish)
    proposal = folder.bundles.propose(publish=sources, withdraw=withdraw, extend=extend)
    if proposal.targets is None:
        typer.echo("nothing to change")
        return
    asked = request_targets(metadata.root(), metadata.targets(), proposal.targets, sources)
    _sign_or_ask(folder, asked, keys_dir, request)


def _sign_or_ask(
    folder: Folder, asked: SigningRequest, keys_dir: Path | None, request: Path | None
) -> None:
    lines = asked.changes()
    if request is not None:
        write_file(request, msgspec.json.encode(asked))
        typer.echo(f"{request} written; sign it where the keys are: axiom-server sign {request}")
        return
    where = keys_dir or folder.keys
    roles: tuple[Role, ...] = ("targets",) if asked.role == "targets" else ("root", "targets")
    staff = load_keys(where, _passphrase(where, roles), roles)
    keys = staff.merged(load_keys(folder.keys, roles=SERVER_ROLES))
    _install(folder, asked.signed_by(keys.of(asked.role)), keys)
    for line in lines:
        typer.echo(line)


def _install(folder: Folder, signed: SigningRequest, keys: Keys) -> None:
    repository: Repository = folder.bundles
    if signed.role == "root":
        repository.install_root(signed.signed_root(), keys)
    else:
        sources = [source.encode() for source in signed.sources.values()]
        repository.install_targets(signed.signed_targets(), sources)


def _role(given: str) -> Role:
    if given not in get_args(Role):
        raise Usage(f"{given!r} is not a role; the roles are {', '.join(ROLES)}")
    return cast(Role, given)


def _passphrase(folder: Path, roles: Iterable[Role]) -> str | None:
    """The passphrase of the keys in a folder, asked for only when one of them is encrypted."""
    if not any(is_encrypted(path) for role in roles for path in key_files(folder, role)):
        return None
    if given := os.environ.get(PASSPHRASE_VARIABLE):
        return given
    if not sys.stdin.isatty():
        raise KeysError(f"the keys in {folder} are encrypted: set {PASSPHRASE_VARIABLE}")
    return str(typer.prompt("Passphrase", hide_input=True))


def _new_passphrase() -> str:
    if given := os.environ.get(PASSPHRASE_VARIABLE):
        return given
    if not sys.stdin.isatty():
        raise KeysError(f"no terminal to ask for a passphrase: set {PASSPHRASE_VARIABLE}")
    return str(typer.prompt("New passphrase", hide_input=True, confirmation_prompt=True))
