"""Commands for the people who hold the signing keys: keys, sign, install, withdraw.

Imports are inside the commands, so that ``axiom-server --help`` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from axiom_protocol.text import counted
from axiom_server.cli.shared import project_of

if TYPE_CHECKING:
    from axiom_server.project_folder import ProjectFolder
    from axiom_server.publish.dry_run import Check
    from axiom_server.trust.signing_request import SigningRequest

keys_app = typer.Typer(no_args_is_help=True, help="Signing keys: create, list, encrypt, replace.")

RoleName = Annotated[str, typer.Argument(help="root, targets, snapshot or timestamp.")]
KeysDir = Annotated[
    Path | None, typer.Option("--keys", help="Folder with the keys (default: the project's).")
]
ToRequest = Annotated[
    Path | None,
    typer.Option("--request", help="Write a signing request to this file, to be signed elsewhere."),
]
Tried = Annotated[
    list[Path] | None,
    typer.Option("--tried", help="Output of axiom-client try FILE --json; repeat it for two runs."),
]
Skip = Annotated[
    list[str] | None,
    typer.Option(
        "--skip", help="Check to skip: determinism, time, memory, cohort, or dry-run (all)."
    ),
]
Budget = Annotated[
    float | None,
    typer.Option("--budget", min=0.001, help="Seconds for each dry run (default: at most ten)."),
]

MOVE_KEYS_OFFLINE = """\
root.pem and targets.pem decide which code volunteers run. Anyone who copies them can sign code.
  1. Copy both to an offline medium, and to a second one that is kept in another place.
  2. Delete them here. The server needs only snapshot.pem and timestamp.pem.
  3. To publish after that: run axiom-server keys request FILE --to R.json here, axiom-server
     sign R.json on the machine with the keys, and axiom-server install R.json here."""


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(keys_app, name="keys")
    app.command()(sign)
    app.command()(install)
    app.command()(withdraw)


@keys_app.command("init")
def make(
    folder: Annotated[Path, typer.Argument(help="A new folder for the keys.")],
    root_keys: Annotated[int, typer.Option(min=1, max=20, help="Number of root keys.")] = 1,
    targets_keys: Annotated[int, typer.Option(min=1, max=20, help="Number of targets keys.")] = 1,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Do not encrypt the keys.")
    ] = False,
) -> None:
    """Create the keys of a new project; put them in DIR/keys before axiom-server init DIR."""
    from axiom_server.publish import signed_changes
    from axiom_server.trust.keys import init_keys, is_encrypted

    secret = None if no_passphrase else signed_changes.given_passphrase(ask_new_passphrase)
    for path in init_keys(folder, secret, {"root": root_keys, "targets": targets_keys}):
        print(f"{path}  {'encrypted' if is_encrypted(path) else 'not encrypted'}")
    print(MOVE_KEYS_OFFLINE)


@keys_app.command("list")
def show(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the keys that the project trusts, their files, and when the metadata expires."""
    import msgspec

    from axiom_server.publish import signed_changes

    trusted = signed_changes.trusted_keys(project_of(context))
    if as_json:
        print(msgspec.json.encode(trusted).decode())
        return
    print(f"root fingerprint {trusted['root_fingerprint']}")
    for role, entry in trusted["roles"].items():
        needed = f"{entry['threshold']} of {len(entry['keys'])} signatures"
        print(f"{role}: {needed}, expires {entry['expires_at']}")
        for keyid, path in entry["keys"].items():
            print(f"  {keyid}  {path or 'not on this machine'}")


@keys_app.command("protect")
def protect(context: typer.Context, keys_dir: KeysDir = None) -> None:
    """Encrypt the root and targets keys with a passphrase, in place."""
    from axiom_server.publish import signed_changes
    from axiom_server.trust.keys import STAFF_ROLES, key_files, protect_key

    folder = keys_dir or project_of(context).keys
    secret = signed_changes.given_passphrase(ask_new_passphrase)
    for path in [path for role in STAFF_ROLES for path in key_files(folder, role)]:
        changed = protect_key(path, secret)
        print(f"{path}  {'encrypted' if changed else 'already encrypted'}")


@keys_app.command("rotate")
def rotate(context: typer.Context, role: RoleName, keys_dir: KeysDir = None) -> None:
    """Replace the keys of a role (needs the root keys). Clients then accept only the new keys."""
    from axiom_server.publish import signed_changes
    from axiom_server.trust.keys import STAFF_ROLES
    from axiom_server.trust.root_rotation import rotate as rotate_keys

    folder, parsed_role = project_of(context), signed_changes.parse_role(role)
    staff_keys = keys_dir or folder.keys
    secret = signed_changes.passphrase(staff_keys, STAFF_ROLES, ask_passphrase)
    for path in rotate_keys(folder.bundles, staff_keys, parsed_role, secret):
        print(f"new {parsed_role} key: {path}")
    print(f"root fingerprint {folder.bundles.fingerprint()} (publish this new fingerprint)")


@keys_app.command("change")
def change(
    context: typer.Context,
    role: RoleName,
    add: Annotated[list[Path] | None, typer.Option(help="A public key to trust, ROLE.pub.")] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Id of a key to stop trusting; keys list shows it.")
    ] = None,
    threshold: Annotated[
        int | None, typer.Option(min=1, max=20, help="How many signatures the role needs.")
    ] = None,
    keys_dir: KeysDir = None,
    request: ToRequest = None,
) -> None:
    """Add or remove trusted keys of a role, or change how many signatures it needs."""
    from axiom_server.publish import signed_changes

    folder = project_of(context)
    signing_request = signed_changes.change_root(folder, role, add or (), drop or (), threshold)
    sign_or_write_request(folder, signing_request, keys_dir, request)


@keys_app.command("import")
def import_device(
    key: Annotated[str, typer.Argument(help="A key in a PKCS#11 device: hsm:2?label=TOKEN.")],
    to: Annotated[Path, typer.Option("--to", help="File for the public key, such as targets.pub.")],
) -> None:
    """Export the public key of a PKCS#11 device, for keys change --add."""
    from axiom_server.publish import signed_changes

    print(f"{to}: {signed_changes.export_public(key, to, _ask_pin)}")


@keys_app.command("renew")
def renew(context: typer.Context, keys_dir: KeysDir = None, request: ToRequest = None) -> None:
    """Sign the list of bundles again, before it expires (180 days after it was signed)."""
    from axiom_server.publish import signed_changes

    folder = project_of(context)
    sign_or_write_request(
        folder, signed_changes.change_targets(folder, extend=True), keys_dir, request
    )


@keys_app.command("request")
def request_publication(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Experiments to publish.")],
    request: Annotated[Path, typer.Option("--to", help="File to write the request to.")],
    tried: Tried = None,
    skip: Skip = None,
    budget: Budget = None,
) -> None:
    """Run experiments in the sandbox, and write a request to sign them on another machine."""
    import msgspec

    from axiom_server.publish import signed_changes
    from axiom_server.publish.publish import DryRunOptions, check_sources

    folder = project_of(context)
    options = DryRunOptions(skip=skipped_checks(skip), budget_seconds=budget)
    sources, dry_runs = check_sources(folder, files, tried or (), options, log_to_stdout)
    signing_request = signed_changes.change_targets(
        folder, publish=[source for _, source in sources]
    )
    signing_request = signing_request and msgspec.structs.replace(signing_request, tried=dry_runs)
    sign_or_write_request(folder, signing_request, None, request)


def withdraw(
    context: typer.Context,
    versions: Annotated[list[str], typer.Argument(help="NAME@VERSION")],
    keys_dir: KeysDir = None,
    request: ToRequest = None,
) -> None:
    """Withdraw published versions: hosts start no further tasks of them."""
    from axiom_server.publish import signed_changes

    folder = project_of(context)
    sign_or_write_request(
        folder, signed_changes.change_targets(folder, withdraw=versions), keys_dir, request
    )


def sign(
    request: Annotated[
        Path, typer.Argument(help="A signing request, written by --request or --to.")
    ],
    keys_dir: Annotated[Path, typer.Option("--keys", help="Folder with the keys.")] = Path(),
    key: Annotated[
        str, typer.Option(help="A key in a PKCS#11 device: hsm:2?label=TOKEN (needs PYKCS11LIB).")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
) -> None:
    """Show what a signing request changes, then add the signatures of the keys on this machine."""
    from axiom_server.errors import Usage
    from axiom_server.publish import signed_changes
    from axiom_server.trust.signing_request import read_request

    signing_request = read_request(request)
    print(f"project with root fingerprint {signing_request.fingerprint()}:")
    for line in signing_request.changes():
        print(f"  {line}")
    if not yes and not typer.confirm("Sign this?"):
        raise Usage("nothing was signed")
    missing = signed_changes.sign_file(request, keys_dir, key, ask_passphrase, _ask_pin)
    print(
        f"signed; it needs {counted(missing, 'more signature')}"
        if missing
        else "signed; next, on the server: axiom-server install"
    )


def install(
    context: typer.Context,
    request: Annotated[Path, typer.Argument(help="A signed request.")],
) -> None:
    """Put a signed request into effect; run it on the server."""
    from axiom_server.publish import signed_changes

    signed_changes.install(project_of(context), request)
    print("installed")


def sign_or_write_request(
    folder: ProjectFolder,
    signing_request: SigningRequest | None,
    keys_dir: Path | None,
    request: Path | None,
) -> None:
    """Sign a change with the keys of this machine, or write it to a file; None is no change."""
    import msgspec

    from axiom_protocol.durable_file import replace_file
    from axiom_server.publish import signed_changes

    if signing_request is None:
        print("nothing to change")
    elif request is not None:
        replace_file(request, msgspec.json.encode(signing_request))
        print(f"{request} written; next, on the machine with the keys: axiom-server sign {request}")
    else:
        for line in signed_changes.sign_here(folder, signing_request, keys_dir, ask_passphrase):
            print(line)


def skipped_checks(given: list[str] | None) -> list[Check]:
    """The checks named by --skip. Raises Usage."""
    from axiom_server.errors import Usage
    from axiom_server.publish.dry_run import CHECKS

    if unknown := sorted(set(given or ()) - set(CHECKS)):
        raise Usage(f"--skip {unknown[0]}: give one of {', '.join(CHECKS)}")
    return [check for check in CHECKS if check in (given or ())]


def log_to_stdout(line: str) -> None:
    """Print a line of progress."""
    print(line, flush=True)


def log_to_stderr(line: str) -> None:
    """Print a line of progress to stderr, because stdout holds JSON."""
    print(line, file=sys.stderr, flush=True)


def ask_passphrase() -> str:
    """Ask at the terminal for a passphrase."""
    return str(typer.prompt("Passphrase", hide_input=True))


def _ask_pin() -> str:
    return str(typer.prompt("The device's PIN", hide_input=True))


def ask_new_passphrase() -> str:
    """Ask at the terminal for a new passphrase, twice."""
    return str(typer.prompt("New passphrase", hide_input=True, confirmation_prompt=True))
