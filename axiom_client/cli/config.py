"""axiom-client config: see and change what may be used of this computer."""

from __future__ import annotations

from typing import Annotated

import typer

from axiom_client.cli.shared import AsJson, Flags, load, print_json, say
from axiom_client.folders import find_folders

app = typer.Typer(help="See and change what may be used of this computer.", no_args_is_help=True)


@app.command("init")
def init(as_json: AsJson = False) -> None:
    """Write a commented file with every key and its default."""
    from axiom_client.config.file import write_template

    path = find_folders().config_file
    write_template(path)
    say(str(path), {"path": str(path)}, as_json=as_json)


@app.command("show")
def show(flags: Flags = None, as_json: AsJson = False) -> None:
    """The effective values, and where each comes from."""
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


@app.command("set")
def set_(
    key: Annotated[str, typer.Argument(help="Such as cpu.share")],
    value: Annotated[str, typer.Argument(help='Such as "75%"')],
    as_json: AsJson = False,
) -> None:
    """Change one key; comments in the file stay. A running agent takes it up at once."""
    from axiom_client.config.file import set_value
    from axiom_client.control.server import Request, ask
    from axiom_client.errors import NotRunning

    folders = find_folders()
    understood = set_value(folders.config_file, key, value)
    try:
        ask(folders.control_socket, Request(do="reload"))
        taken_up = True
    except NotRunning:
        taken_up = False
    say(
        f"{key} = {value}" + (", taken up by the running agent" if taken_up else ""),
        {"key": key, "value": understood, "taken_up": taken_up},
        as_json=as_json,
    )


@app.command("check")
def check(as_json: AsJson = False) -> None:
    """Say whether the file is in order."""
    folders = find_folders()
    load(folders)
    path = folders.config_file
    say(f"{path} is in order", {"path": str(path), "in_order": True}, as_json=as_json)


@app.command("path")
def path(as_json: AsJson = False) -> None:
    """Where the file is, or would be."""
    file = find_folders().config_file
    say(str(file), {"path": str(file)}, as_json=as_json)
