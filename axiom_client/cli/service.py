"""`axiom-client service`: install, uninstall, status, restart."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from axiom_client.errors import ServiceProblem
from axiom_client.service.base import Service, program

app = typer.Typer(no_args_is_help=True, help="Run the agent as a service of this computer.")

System = Annotated[
    bool, typer.Option("--system", help="The computer's own service, not yours; needs root.")
]


def find_service(system: bool, platform: str = sys.platform) -> Service:
    """This operating system's way of being a service. Raises ServiceProblem."""
    if platform.startswith("linux"):
        from axiom_client.service.systemd import SystemdService

        return SystemdService(scope="system" if system else "user", program=program())
    if platform == "darwin" and sys.platform != "win32":
        from axiom_client.service.launchd import LaunchdService

        home, uid = Path.home(), os.getuid()
        return LaunchdService(
            scope="system" if system else "user", program=program(), home=home, uid=uid
        )
    if platform == "win32":
        return _windows()
    raise ServiceProblem(f"no service is known for {platform}; run it by hand: axiom-client run")


def _windows() -> Service:
    from axiom_client.service.windows import WindowsService

    try:
        from axiom_client.service.windows_service import Pywin32Manager
    except ImportError:
        raise ServiceProblem("pywin32 is missing; install it: pip install pywin32") from None
    return WindowsService(manager=Pywin32Manager())


@app.command()
def install(system: System = False) -> None:
    """Start the agent now and whenever this computer starts."""
    typer.echo(find_service(system).install())


@app.command()
def uninstall(system: System = False) -> None:
    """Stop it and remove what `install` wrote; your settings and unsent reports stay."""
    typer.echo(find_service(system).uninstall())


@app.command()
def restart(system: System = False) -> None:
    """Stop with time for checkpoints, and start again."""
    typer.echo(find_service(system).restart())


@app.command()
def status(
    system: System = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What the operating system says of the service."""
    found = find_service(system).status()
    if json:
        import msgspec

        typer.echo(msgspec.json.encode(found).decode())
        return
    installed = "installed" if found.installed else "not installed"
    running = "running" if found.running else "not running"
    typer.echo(f"{found.where}: {installed}, {running} ({found.detail})")
