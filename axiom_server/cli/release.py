"""Commands that release axiom-client to hosts that update themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from axiom_server.cli.keys import (
    KeysDir,
    ToRequest,
    ask_new_passphrase,
    sign_or_write_request,
)
from axiom_server.cli.shared import Json, print_json, print_table, project_of

if TYPE_CHECKING:
    from axiom_protocol.release import ReleaseFacts

app = typer.Typer(
    no_args_is_help=True, help="Releases of axiom-client, for hosts that update themselves."
)


@app.command()
def trust(
    context: typer.Context,
    key: Annotated[
        list[Path] | None,
        typer.Option(
            help="A public key, client-releases.pub; may be repeated. Default: those in the keys' "
            "folder, where one is created if there is none."
        ),
    ] = None,
    threshold: Annotated[int, typer.Option(min=1, help="How many signatures a release needs.")] = 1,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Do not encrypt a key that is created.")
    ] = False,
    keys_dir: KeysDir = None,
    request: ToRequest = None,
) -> None:
    """Say whose keys may release axiom-client (needs the root and targets keys).

    With --request this takes two requests: give the command again when the first is installed.
    """
    from axiom_server.publish import release, signed_changes

    folder = project_of(context)
    home = keys_dir or folder.keys
    keys = key or release.public_keys(home)
    if not keys:
        secret = None if no_passphrase else signed_changes.given_passphrase(ask_new_passphrase)
        keys = [release.make_key(home, secret)]
        print(f"new client-releases key: {keys[0].with_suffix('.pem')}; keep it offline")
    while (change := release.change_trust(folder, keys, threshold)) is not None:
        sign_or_write_request(folder, change, keys_dir, request)
        if request is not None:
            return
    print("releases may be signed with: " + ", ".join(map(str, keys)))


@app.command()
def publish(
    context: typer.Context,
    archives: Annotated[
        list[Path], typer.Argument(help="Wheels or standalone archives of one version.")
    ],
    keys_dir: KeysDir = None,
    request: ToRequest = None,
) -> None:
    """Release archives: hosts that update themselves take them up between tasks."""
    from axiom_server.publish.release import change_releases

    folder = project_of(context)
    change = change_releases(folder, archives=archives)
    sign_or_write_request(folder, change, keys_dir, request)


@app.command()
def withdraw(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="The version, such as 0.3.0.")],
    keys_dir: KeysDir = None,
    request: ToRequest = None,
) -> None:
    """Withdraw a version: no further host takes it up, or goes back to it."""
    from axiom_server.publish.release import change_releases

    folder = project_of(context)
    sign_or_write_request(folder, change_releases(folder, withdraw=version), keys_dir, request)


@app.command()
def renew(context: typer.Context, keys_dir: KeysDir = None, request: ToRequest = None) -> None:
    """Sign the list of releases again, before it expires (180 days after it was signed)."""
    from axiom_server.publish.release import change_releases

    folder = project_of(context)
    sign_or_write_request(folder, change_releases(folder, extend=True), keys_dir, request)


@app.command("list")
def show(context: typer.Context, as_json: Json = False) -> None:
    """List the releases, and until when their list is valid."""
    import msgspec

    folder = project_of(context)
    found = folder.bundles.releases()
    metadata = folder.bundles.metadata.releases()
    expires = metadata.signed.expires.isoformat() if metadata else None
    if as_json:
        print_json({"releases": msgspec.to_builtins(found), "expires_at": expires})
        return
    lines = [(f.version, f.system, _python(f), path) for path, f in found.items()]
    print_table(("version", "system", "Python", "archive"), lines)
    print(f"valid until {expires}" if expires else "no release yet")


def _python(facts: ReleaseFacts) -> str:
    """The Pythons that run a release."""
    if facts.python_below:
        return f"{facts.python_from}, below {facts.python_below}"
    return f"{facts.python_from} or newer"
