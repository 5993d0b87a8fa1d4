"""The commands `axiom-server staff ...`: keys for the staff pages, and the audit log."""

from __future__ import annotations

from typing import Annotated

import typer

from axiom_server.cli.shared import (
    Json,
    name_of,
    print_json,
    print_table,
    project_of,
    run_transaction,
)

app = typer.Typer(
    help="Manage who may sign in to the staff pages; show the audit log.", no_args_is_help=True
)


@app.command("add")
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The staff member's name.")],
    as_json: Json = False,
) -> None:
    """Create a key for signing in at /staff. It is shown only now."""
    from axiom_server.errors import Usage
    from axiom_server.store import staff, users
    from axiom_server.store.database import Connection

    name = name_of(name)
    key, stored = users.new_secret()

    async def work(connection: Connection) -> bool:
        await staff.record(connection, staff.command_user(), "staff add", {"name": name})
        return await staff.add(connection, name, stored)

    if not run_transaction(project_of(context), work):
        raise Usage(f"{name!r} has a key already; axiom-server staff remove revokes it")
    if as_json:
        print_json({"name": name, "key": key})
    else:
        print(f"staff key of {name}: {key}")


@app.command("remove")
def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The staff member's name.")],
) -> None:
    """Revoke a staff member's key and end all sessions that were opened with it."""
    from axiom_server.errors import NotFound
    from axiom_server.store import staff
    from axiom_server.store.database import Connection

    async def work(connection: Connection) -> bool:
        await staff.record(connection, staff.command_user(), "staff remove", {"name": name})
        return await staff.remove(connection, name)

    if not run_transaction(project_of(context), work):
        raise NotFound(f"nobody named {name!r} has a staff key")
    print(f"{name} can no longer sign in")


@app.command("log")
def log(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--most", min=1, help="List at most this many.")] = 50,
    as_json: Json = False,
) -> None:
    """Show the audit log: what each staff member did, the newest first."""
    from axiom_server.store import staff

    lines = run_transaction(project_of(context), lambda c: staff.audit_log(c, limit))
    if as_json:
        print_json([line._asdict() for line in lines])
        return
    print_table(
        ("at", "who", "what", "detail"),
        [(f"{line.at:%Y-%m-%d %H:%M:%S}", line.who, line.action, line.detail) for line in lines],
    )
