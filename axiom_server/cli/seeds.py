"""The commands `axiom-server seeds ...`: budgets of seeds that the server spends on its own.

Imports are inside the functions, so that ``axiom-server --help`` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from axiom_protocol.text import counted
from axiom_server.cli.shared import Json, print_json, print_table, project_of, run_transaction

if TYPE_CHECKING:
    from axiom_server.store.database import Connection

app = typer.Typer(
    help="Seed budgets: the server issues seeds where they are expected to decide most findings.",
    no_args_is_help=True,
)


@app.command()
def give(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(help="Experiments that share the budget.")],
    seeds: Annotated[int, typer.Option(min=1, max=1_000_000, help="Largest number of seeds.")],
) -> None:
    """Set a budget of seeds for deciding the findings of one or more experiments."""
    from axiom_server.errors import Usage
    from axiom_server.publish.deploy import select_versions
    from axiom_server.store import seed_budgets

    async def work(connection: Connection) -> None:
        chosen = await select_versions(connection, names)
        if without := [v.manifest.ref for v in chosen if not v.manifest.findings]:
            raise Usage(f"{without[0]} declares no findings, so seeds would decide nothing")
        await seed_budgets.give(connection, [v.version_id for v in chosen], seeds)

    run_transaction(project_of(context), work)
    print(f"up to {counted(seeds, 'seed')} for {', '.join(names)}; axiom-server serve issues them")


@app.command("list")
def list_budgets(context: typer.Context, as_json: Json = False) -> None:
    """List budgets: the seeds issued, and why a budget is waiting or closed."""
    from axiom_server.store import seed_budgets

    found = run_transaction(project_of(context), seed_budgets.listing)
    if as_json:
        print_json([b._asdict() for b in found])
        return
    print_table(
        ("experiments", "seeds", "issued", "batches", "state", "why"),
        [(", ".join(b.names), b.seeds, b.issued, b.batches, b.state, b.reason) for b in found],
    )
