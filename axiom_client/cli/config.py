"""``axiom-client config``: shows and changes the configuration."""

from __future__ import annotations

from typing import Annotated

import typer

from axiom_client.cli.shared import AsJson, Flags, load, print_json, print_result
from axiom_client.folders import find_folders

app = typer.Typer(
    help="Show and change how much of this computer may be used.", no_args_is_help=True
)


@app.command("init")
def init(as_json: AsJson = False) -> None:
    """Write a new configuration file with every key, its default and a comment."""
    from axiom_client.config.file import write_template

    path = find_folders().config_file
    write_template(path)
    print_result(str(path), {"path": str(path)}, as_json=as_json)


@app.command("show")
def show(flags: Flags = None, as_json: AsJson = False) -> None:
    """Show all values and where each comes from."""
    settings = load(find_folders(), flags or []).settings
    if as_json:
        print_json(
            {
                name: {"value": s.value, "written": s.written, "origin": s.origin}
                for name, s in sorted(settings.items())
            }
        )
        return
    for name, setting in settings.items():
        print(f"{name:<20} {setting.written!s:<12} {setting.origin}")
    for line in _account_lines():
        print(line)


@app.command("set")
def set_(
    key: Annotated[str, typer.Argument(help="Name of the key, such as cpu.share")],
    value: Annotated[str, typer.Argument(help='New value, such as "75%"')],
    as_json: AsJson = False,
) -> None:
    """Change one key in the file. A running agent uses the new value at once."""
    from axiom_client.config.file import set_value
    from axiom_client.control.server import Request, ask
    from axiom_client.errors import NotRunning

    folders = find_folders()
    parsed = set_value(folders.config_file, key, value)
    try:
        ask(folders.control_socket, Request(do="reload"))
        in_use = True
    except NotRunning:
        in_use = False
    print_result(
        f"{key} = {value}" + (", now in use by the running agent" if in_use else ""),
        {"key": key, "value": parsed, "taken_up": in_use},
        as_json=as_json,
    )


@app.command("check")
def check(as_json: AsJson = False) -> None:
    """Check that the configuration is valid."""
    folders = find_folders()
    load(folders)
    path = folders.config_file
    print_result(f"{path} is valid", {"path": str(path), "in_order": True}, as_json=as_json)


@app.command("path")
def path(as_json: AsJson = False) -> None:
    """Show where the configuration file is, whether it exists or not."""
    file = find_folders().config_file
    print_result(str(file), {"path": str(file)}, as_json=as_json)


def _account_lines() -> list[str]:
    """What the account and the mode lower; nothing where this host is not attached."""
    from axiom_client.cli.display import account_lines
    from axiom_client.cli.offline import known_snapshot
    from axiom_client.errors import NotAttached

    try:
        return account_lines(known_snapshot(find_folders()).account)
    except NotAttached:
        return []
