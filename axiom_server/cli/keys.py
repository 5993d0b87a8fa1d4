"""The commands for those who hold the keys: keys, sign, install, withdraw.

Imports are inside the commands, so that ``axiom-server --help`` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from axiom_server.cli.shared import project_of

if TYPE_CHECKING:
    from axiom_server.project_folder import ProjectFolder
    from axiom_server.publish.dry_run import Check
    from axiom_server.trust.signing_request import SigningRequest

keys_app = typer.Typer(no_args_is_help=True, help="Signing keys: make, list, protect, replace.")

RoleName = Annotated[str, typer.Argument(help="root, targets, snapshot or timestamp.")]
KeysDir = Annotated[
    Path | None, typer.Option("--keys", help="Folder of the keys; the project's own, unless said.")
]
ToRequest = Annotated[
    Path | None, typer.Option("--request", help="Write a signing request: the keys are elsewhere.")
]
Tried = Annotated[
    list[Path] | None,
    typer.Option(
        "--tried", help="A run made elsewhere: axiom-client try FILE --json (repeat: two runs)."
    ),
]
Skip = Annotated[
    list[str] | None,
    typer.Option("--skip", help="Not checked: determinism, time, memory, or the whole dry-run."),
]
Budget = Annotated[
    float | None,
    typer.Option("--budget", min=0.001, help="Seconds of each dry run; else at most ten."),
]

MOVE_AWAY = """\
root.pem and targets.pem decide which code volunteers run: who copies them signs in your name.
  1. Copy both to a medium that is kept offline, and to a second one that is kept elsewhere.
  2. Remove them from here. The server needs only snapshot.pem and timestamp.pem.
  3. To publish from then on: axiom-server keys request FILE --to R.json here, axiom-server sign
     R.json where the keys are, and axiom-server install R.json here."""


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(keys_app, name="keys")
    app.command()(sign)
    app.command()(install)
    app.command()(withdraw)


@keys_app.command("init")
def make(
    folder: Annotated[Path, typer.Argument(help="A new folder for the keys.")],
    root_keys: Annotated[int, typer.Option(min=1, max=20)] = 1,
    targets_keys: Annotated[int, typer.Option(min=1, max=20)] = 1,
    no_passphrase: Annotated[bool, typer.Option("--no-passphrase")] = False,
) -> None:
    """Make the keys of a new project; put them in DIR/keys before axiom-server init DIR."""
    from axiom_server.publish import signed_changes as holders
    from axiom_server.trust.keys import init_keys, is_encrypted

    secret = None if no_passphrase else holders.given_passphrase(_ask_new)
    for path in init_keys(folder, secret, {"root": root_keys, "targets": targets_keys}):
        print(f"{path}  {'encrypted' if is_encrypted(path) else 'not encrypted'}")
    print(MOVE_AWAY)


@keys_app.command("list")
def show(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Which keys the project trusts, where they are, and until when its metadata holds."""
    import msgspec

    from axiom_server.publish import signed_changes as holders

    found = holders.trusted_keys(project_of(context))
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    print(f"root fingerprint {found['root_fingerprint']}")
    for role, told in found["roles"].items():
        needed = f"{told['threshold']} of {len(told['keys'])} signatures"
        print(f"{role}: {needed}, holds until {told['expires_at']}")
        for keyid, path in told["keys"].items():
            print(f"  {keyid}  {path or 'kept elsewhere'}")


@keys_app.command("protect")
def protect(context: typer.Context, keys_dir: KeysDir = None) -> None:
    """Encrypt the root and targets keys with a passphrase, in place."""
    from axiom_server.publish import signed_changes as holders
    from axiom_server.trust.keys import STAFF_ROLES, key_files, protect_key

    where = keys_dir or project_of(context).keys
    secret = holders.given_passphrase(_ask_new)
    for path in [path for role in STAFF_ROLES for path in key_files(where, role)]:
        done = protect_key(path, secret)
        print(f"{path}  {'encrypted now' if done else 'was encrypted already'}")


@keys_app.command("rotate")
def rotate(context: typer.Context, role: RoleName, keys_dir: KeysDir = None) -> None:
    """Replace the keys of a role; clients follow by themselves. Needs the root keys at hand."""
    from axiom_server.publish import signed_changes as holders
    from axiom_server.trust import root_rotation as rotation
    from axiom_server.trust.keys import STAFF_ROLES

    folder, checked = project_of(context), holders.parse_role(role)
    where = keys_dir or folder.keys
    secret = holders.passphrase(where, STAFF_ROLES, ask)
    for path in rotation.rotate(folder.bundles, where, checked, secret):
        print(f"new {checked} key: {path}")
    print(f"root fingerprint {folder.bundles.fingerprint()} (publish this one from now on)")


@keys_app.command("change")
def change(
    context: typer.Context,
    role: RoleName,
    add: Annotated[list[Path] | None, typer.Option(help="A public key, ROLE.pub.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="A key id, as keys list shows.")] = None,
    threshold: Annotated[
        int | None, typer.Option(min=1, max=20, help="Signatures that the role needs.")
    ] = None,
    keys_dir: KeysDir = None,
    request: ToRequest = None,
) -> None:
    """Trust further keys for a role, distrust some, or ask for more signatures than one."""
    from axiom_server.publish import signed_changes as holders

    folder = project_of(context)
    asked = holders.change_root(folder, role, add or (), drop or (), threshold)
    _sign_or_ask(folder, asked, keys_dir, request)


@keys_app.command("import")
def import_device(
    key: Annotated[str, typer.Argument(help="hsm:2?label=TOKEN, a key in a PKCS#11 device.")],
    to: Annotated[Path, typer.Option("--to", help="Its public half, such as targets.pub.")],
) -> None:
    """Take the public half of a device's key, for keys change --add."""
    from axiom_server.publish import signed_changes as holders

    print(f"{to}: {holders.export_public(key, to, _ask_pin)}")


@keys_app.command("renew")
def renew(context: typer.Context, keys_dir: KeysDir = None, request: ToRequest = None) -> None:
    """Sign the same bundles again, before the targets metadata expires (after 180 days)."""
    from axiom_server.publish import signed_changes as holders

    folder = project_of(context)
    _sign_or_ask(folder, holders.change_targets(folder, extend=True), keys_dir, request)


@keys_app.command("request")
def ask_to_publish(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Experiments to publish.")],
    request: Annotated[Path, typer.Option("--to", help="The request's file.")],
    tried: Tried = None,
    skip: Skip = None,
    budget: Budget = None,
) -> None:
    """Try experiments, and write a request to sign them where the targets key is."""
    import msgspec

    from axiom_server.publish import publish as publishing
    from axiom_server.publish import signed_changes as holders

    folder = project_of(context)
    options = publishing.DryRunOptions(skip=checks(skip), budget_seconds=budget)
    sources, shown = publishing.check_sources(folder, files, tried or (), options, progress)
    asked = holders.change_targets(folder, publish=[source for _, source in sources])
    asked = asked and msgspec.structs.replace(asked, tried=shown)
    _sign_or_ask(folder, asked, None, request)


def withdraw(
    context: typer.Context,
    versions: Annotated[list[str], typer.Argument(help="NAME@VERSION")],
    keys_dir: KeysDir = None,
    request: ToRequest = None,
) -> None:
    """Take published versions back: hosts start them no more."""
    from axiom_server.publish import signed_changes as holders

    folder = project_of(context)
    _sign_or_ask(folder, holders.change_targets(folder, withdraw=versions), keys_dir, request)


def sign(
    request: Annotated[Path, typer.Argument(help="A file that --request or --to wrote.")],
    keys_dir: Annotated[Path, typer.Option("--keys", help="Folder of the keys.")] = Path(),
    key: Annotated[
        str, typer.Option(help="A key in a PKCS#11 device: hsm:2?label=TOKEN (needs PYKCS11LIB).")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Add this machine's signatures to a request, after showing what it would change."""
    from axiom_server.errors import Usage
    from axiom_server.publish import signed_changes as holders
    from axiom_server.trust.signing_request import read_request

    asked = read_request(request)
    print(f"for the project with the root fingerprint {asked.fingerprint()}:")
    for line in asked.changes():
        print(f"  {line}")
    if not yes and not typer.confirm("Sign this?"):
        raise Usage("nothing was signed")
    missing = holders.sign_file(request, keys_dir, key, ask, _ask_pin)
    then = f"it needs {missing} more" if missing else "next, on the server: axiom-server install"
    print(f"signed; {then}")


def install(
    context: typer.Context,
    request: Annotated[Path, typer.Argument(help="A signed request.")],
) -> None:
    """Make a signed request current on the server."""
    from axiom_server.publish import signed_changes as holders

    holders.install(project_of(context), request)
    print("installed")


def _sign_or_ask(
    folder: ProjectFolder, asked: SigningRequest | None, keys_dir: Path | None, request: Path | None
) -> None:
    import msgspec

    from axiom_server.publish import signed_changes as holders
    from axiom_server.trust.metadata import write_file

    if asked is None:
        print("nothing to change")
    elif request is not None:
        write_file(request, msgspec.json.encode(asked))
        print(f"{request} written; next, where the keys are: axiom-server sign {request}")
    else:
        for line in holders.sign_here(folder, asked, keys_dir, ask):
            print(line)


def checks(given: list[str] | None) -> list[Check]:
    """What is not to be checked. Raises Usage."""
    from axiom_server.errors import Usage
    from axiom_server.publish.dry_run import CHECKS

    if unknown := sorted(set(given or ()) - set(CHECKS)):
        raise Usage(f"--skip {unknown[0]}: give one of {', '.join(CHECKS)}")
    return [check for check in CHECKS if check in (given or ())]


def progress(line: str) -> None:
    """How it goes."""
    print(line, flush=True)


def progress_aside(line: str) -> None:
    """How it goes, not mixed with what a command prints for programs."""
    print(line, file=sys.stderr, flush=True)


def ask() -> str:
    """A passphrase, of the person at the terminal."""
    return str(typer.prompt("Passphrase", hide_input=True))


def _ask_pin() -> str:
    return str(typer.prompt("The device's PIN", hide_input=True))


def _ask_new() -> str:
    return str(typer.prompt("New passphrase", hide_input=True, confirmation_prompt=True))
