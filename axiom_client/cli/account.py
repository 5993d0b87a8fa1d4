"""The commands for the owner's account and for modes."""

from __future__ import annotations

from typing import Annotated

import typer

from axiom_client.cli.shared import AsJson, load, print_json, print_result
from axiom_client.folders import find_folders

app = typer.Typer(help="Open your account's pages.", no_args_is_help=True)


@app.command("open")
def open_(
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the link, or only print it.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Open your account's pages, signed in once by a link; you can replace a lost key there."""
    import asyncio
    import webbrowser

    from axiom_client.agent.attach import account_link
    from axiom_client.config.quantities import show_seconds
    from axiom_client.project.api import Network

    folders = find_folders()
    config = load(folders)
    network = Network(proxy=config["network.proxy"], ca_bundle=config["network.ca_bundle"])
    url, seconds = asyncio.run(account_link(folders, network))
    if as_json:
        print_json({"url": url, "expires_seconds": seconds})
        return
    print(url)
    print(f"this link signs you in once, within {show_seconds(seconds)}; keep it secret")
    if browser:
        webbrowser.open(url)


def mode(
    name: Annotated[
        str, typer.Argument(help='Name, such as "gaming"; "off" ends the present mode.')
    ] = "",
    pause: Annotated[bool, typer.Option("--pause", help="Run no tasks.")] = False,
    drain: Annotated[bool, typer.Option("--drain", help="Finish tasks and take none.")] = False,
    share: Annotated[str, typer.Option(help='Largest share of the cores, such as "25%".')] = "",
    cores: Annotated[int | None, typer.Option(help="Largest number of cores.", min=0)] = None,
    gpus: Annotated[int | None, typer.Option(help="Largest number of GPUs.", min=0)] = None,
    hours: Annotated[
        str, typer.Option(help='Hours in which tasks run, such as "22:00-07:00".')
    ] = "",
    no_battery: Annotated[
        bool, typer.Option("--no-battery", help="Run no tasks on battery power.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the modes, switch this host into one, or define one by its limits."""
    from axiom_client.control.server import Request, ask
    from axiom_protocol.messages import HostSettings

    if not name:
        _list_modes(as_json)
        return
    asked = HostSettings(
        paused=pause, draining=drain, cpu_share=_share(share), cpu_cores=cores, gpus=gpus,
        schedule=_hours(hours), on_battery=False if no_battery else None,
    )  # fmt: skip
    chosen = "" if name == "off" else _checked(name)
    settings = asked if chosen and asked != HostSettings() else None
    ask(find_folders().control_socket, Request(do="mode", mode=chosen, settings=settings))
    text = f"mode {chosen}; to end it: axiom-client mode off" if chosen else "mode ended"
    print_result(text, {"done": "mode", "mode": chosen}, as_json=as_json)


def _list_modes(as_json: bool) -> None:
    from axiom_client.cli.offline import known_snapshot

    account = known_snapshot(find_folders()).account
    if as_json:
        print_json({"mode": account.mode, "modes": account.modes})
        return
    for known, words in account.modes.items():
        mark = "*" if known == account.mode else " "
        print(f"{mark} {known:<16} {', '.join(words)}")
    if not account.modes:
        print("no modes yet; to define one: axiom-client mode gaming --share 25% --gpus 0")


def _checked(name: str) -> str:
    from axiom_client.errors import BadValue
    from axiom_protocol.text import one_line

    if name != one_line(name) or len(name) > 40:
        raise BadValue(
            f"{name!r} cannot be the name of a mode; use one line of at most 40 characters"
        )
    return name


def _share(text: str) -> float | None:
    from axiom_client.config.quantities import read_share
    from axiom_client.errors import BadValue

    try:
        return read_share(text) if text else None
    except ValueError as error:
        raise BadValue(f"--share {text!r} {error}") from None


def _hours(text: str) -> list[tuple[int, int]]:
    from axiom_client.config.quantities import read_schedule
    from axiom_client.errors import BadValue

    try:
        return read_schedule(text) if text else []
    except ValueError as error:
        raise BadValue(f"--hours {text!r} {error}") from None
