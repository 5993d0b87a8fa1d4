"""``axiom-client service``: install, uninstall, restart and status."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from axiom_client.cli.shared import AsJson, print_json
from axiom_client.errors import ServiceProblem
from axiom_client.service.base import Service, program

app = typer.Typer(no_args_is_help=True, help="Run the agent as a service in the background.")

System = Annotated[
    bool,
    typer.Option("--system", help="For the whole computer, not only for your user; needs root."),
]


def find_service(system: bool, platform: str = sys.platform) -> Service:
    """The service of this operating system. Raises ServiceProblem."""
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
    raise ServiceProblem(
        f"services are not supported on {platform}; run the agent by hand: axiom-client run"
    )


def _windows() -> Service:
    from axiom_client.service.windows import WindowsService

    try:
        from axiom_client.service.windows_service import Pywin32Manager
    except ImportError:
        raise ServiceProblem("pywin32 is missing; install it: pip install pywin32") from None
    return WindowsService(manager=Pywin32Manager())


@app.command()
def install(system: System = False) -> None:
    """Install the service: the agent starts now and with the computer."""
    typer.echo(find_service(system).install())


@app.command()
def uninstall(system: System = False) -> None:
    """Stop and remove the service; settings and unsent reports stay."""
    typer.echo(find_service(system).uninstall())


@app.command()
def restart(system: System = False) -> None:
    """Restart the agent; running tasks write checkpoints first."""
    typer.echo(find_service(system).restart())


@app.command()
def status(
    system: System = False,
    as_json: AsJson = False,
) -> None:
    """Show whether the service is installed and running."""
    found = find_service(system).status()
    if as_json:
        print_json(found)
        return
    installed = "installed" if found.installed else "not installed"
    running = "running" if found.running else "not running"
    typer.echo(f"{found.where}: {installed}, {running} ({found.detail})")
