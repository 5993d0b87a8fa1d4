"""Commands that show and manage a running project: status, hosts, users, tasks, experiments.

Imports are inside the commands, so that ``axiom-server --help`` answers at once.
"""

from __future__ import annotations

from pathlib import Path
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

users_app = typer.Typer(help="Manage volunteers' accounts.", no_args_is_help=True)
hosts_app = typer.Typer(
    help="List hosts; quarantine, release or trust one.", invoke_without_command=True
)
experiments_app = typer.Typer(
    help="List published experiments, retire or resume them.", invoke_without_command=True
)
export_app = typer.Typer(help="Export data for analysis.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (status, tasks):
        app.command()(command)
    app.add_typer(users_app, name="users")
    app.add_typer(hosts_app, name="hosts")
    app.add_typer(hosts_app, name="host", hidden=True)  # the command's name in 0.1.0
    app.add_typer(experiments_app, name="experiments")
    app.add_typer(export_app, name="export")


def status(context: typer.Context, as_json: Json = False) -> None:
    """Show totals, the queue of each experiment, and alarms."""
    from axiom_server.review.log import number
    from axiom_server.store import overview

    found = run_transaction(project_of(context), overview.totals)
    if as_json:
        print_json(found)
        return
    for key, value in found["totals"].items():
        print(f"{key.replace('_', ' '):<24} {number(value):>12,}")
    print_table(
        ("experiment", "any host", "one host", "leased"),
        [(e["name"], e["pool"], e["held"], e["leased"]) for e in found["experiments"]],
    )
    for alarm in found["alarms"]:
        print(f"alarm: {alarm['experiment']}: {alarm['message']}")


@hosts_app.callback()
def hosts(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--most", min=1, help="List at most this many.")] = 1000,
    as_json: Json = False,
) -> None:
    """List hosts, the most recently seen first."""
    if context.invoked_subcommand is not None:
        return
    from axiom_server.store import hosts as store

    found = run_transaction(project_of(context), lambda c: store.listing(c, limit))
    if as_json:
        print_json([line._asdict() for line in found])
        return
    print_table(
        ("host", "name", "user", "state", "cores", "gpus", "idle", "leased", "credit"),
        [
            (h.host_id, h.name, h.user or "-", "imported" if h.imported else h.state, h.cpu_cores,
             h.gpus, f"{h.idle_cpu}+{h.idle_gpu}", h.leased, f"{h.credit_total:g}")
            for h in found
        ],
    )  # fmt: skip


@hosts_app.command()
def quarantine(
    context: typer.Context, host: int, reason: Annotated[str, typer.Option()] = "by staff"
) -> None:
    """Stop giving a host work. Its unconfirmed results are not credited."""
    _set_host(context, host, "quarantined", reason)


@hosts_app.command()
def release(context: typer.Context, host: int) -> None:
    """Give a quarantined host work again; its results are checked like a new host's."""
    _set_host(context, host, "active", "")


@hosts_app.command()
def trust(
    context: typer.Context,
    host: int,
    undo: Annotated[bool, typer.Option("--undo", help="Stop trusting it.")] = False,
) -> None:
    """Trust one of the project's own hosts: results of others are judged by comparison with its."""
    from axiom_server.errors import NotFound
    from axiom_server.store import standing

    if not run_transaction(
        project_of(context), lambda c: standing.set_trusted(c, host, trusted=not undo)
    ):
        raise NotFound(f"no active host {host} has joined; axiom-server hosts lists them")
    print(f"host {host} is {'no longer ' if undo else ''}trusted")


def _set_host(context: typer.Context, host: int, state: str, reason: str) -> None:
    from axiom_server.errors import NotFound
    from axiom_server.store import hosts as store
    from axiom_server.store import staff
    from axiom_server.store.database import Connection

    async def work(connection: Connection) -> bool:
        detail = {"host": host, "reason": reason}
        await staff.record(connection, staff.command_user(), f"host {state}", detail)
        return await store.set_state(connection, host, state, reason)

    if not run_transaction(project_of(context), work):
        raise NotFound(f"no host {host}; axiom-server hosts lists them")
    print(f"host {host} is {state}" + (f": {reason}" if reason else ""))


@users_app.command("add")
def users_add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The volunteer's name.")],
    as_json: Json = False,
) -> None:
    """Create an account, or give an imported user a key. The key is shown only now."""
    from axiom_server.errors import Usage
    from axiom_server.store import users as store

    name = name_of(name)
    key, stored = store.new_secret()
    user_id = run_transaction(project_of(context), lambda c: store.create_or_claim(c, name, stored))
    if user_id is None:
        raise Usage(
            f"the name {name!r} belongs to an account that has a key, or looks like another name"
        )
    if as_json:
        print_json({"user_id": user_id, "user": name, "account_key": key})
    else:
        print(f"user {user_id} {name}\naccount key {key}")


@users_app.command("vouch")
def users_vouch(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The volunteer's name.")],
    undo: Annotated[bool, typer.Option("--undo", help="Stop vouching for them.")] = False,
) -> None:
    """Vouch for a volunteer you know: their hosts get work for all their cores at once.

    Their results are checked like everybody's. Accounts made by `users add` are vouched for.
    """
    from axiom_server.errors import NotFound
    from axiom_server.store import standing

    if not run_transaction(
        project_of(context), lambda c: standing.vouch(c, name, vouched=not undo)
    ):
        raise NotFound(f"no user {name!r}; axiom-server users list shows them")
    print(f"user {name} is {'no longer ' if undo else ''}vouched for")


@users_app.command("list")
def users_list(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--most", min=1, help="List at most this many.")] = 1000,
    as_json: Json = False,
) -> None:
    """List users by credit, highest first."""
    from axiom_server.store import users as store

    found = run_transaction(project_of(context), lambda c: store.listing(c, limit))
    if as_json:
        print_json([line._asdict() for line in found])
        return
    print_table(
        ("user", "name", "hosts", "credit", "recent average"),
        [(u.user_id, u.name, u.hosts, f"{u.credit_total:g}", f"{u.average:.1f}") for u in found],
    )


def tasks(
    context: typer.Context,
    state: Annotated[
        str | None, typer.Option(help="Only tasks in this state: leased, reported, reviewed, lost.")
    ] = None,
    limit: Annotated[int, typer.Option("--most", min=1, help="List at most this many.")] = 50,
    as_json: Json = False,
) -> None:
    """List tasks, the newest first."""
    from axiom_server.errors import Usage
    from axiom_server.store import tasks as store

    if state is not None and state not in store.STATES:
        raise Usage(f"{state!r} is not a task state; give one of {', '.join(store.STATES)}")
    found = run_transaction(project_of(context), lambda c: store.listing(c, state, limit))
    if as_json:
        print_json([line._asdict() for line in found])
        return
    print_table(
        ("task", "experiment", "host", "device", "purpose", "state", "outcome", "elapsed", "why"),
        [
            (t.task_id, t.experiment, t.host_id, t.device, t.purpose, t.state, t.outcome or "-",
             f"{t.elapsed_seconds:.1f}" if t.elapsed_seconds is not None else "-", t.refusal)
            for t in found
        ],
    )  # fmt: skip


@experiments_app.callback()
def experiments_list(context: typer.Context, as_json: Json = False) -> None:
    """List published experiments and their state."""
    if context.invoked_subcommand is not None:
        return
    from axiom_server.store import experiments as store

    found = run_transaction(project_of(context), store.versions)
    if as_json:
        print_json(
            [
                {"name": v.name, "version": v.version, "state": v.state, "why": v.state_reason,
                 "weight": v.weight, "sha256": v.sha256, "title": v.manifest.title}
                for v in found
            ]
        )  # fmt: skip
        return
    print_table(
        ("experiment", "state", "weight", "title", "why"),
        [(v.manifest.ref, v.state, v.weight, v.manifest.title, v.state_reason) for v in found],
    )


@experiments_app.command()
def retire(
    context: typer.Context, name: str, reason: Annotated[str, typer.Option()] = "by staff"
) -> None:
    """Stop deploying and leasing an experiment; running tasks may finish."""
    _set_experiment(context, name, "retired", reason)


@experiments_app.command()
def resume(context: typer.Context, name: str) -> None:
    """Resume a retired or stopped experiment; its unfinished workunits are queued again."""
    _set_experiment(context, name, "active", "")


def _set_experiment(context: typer.Context, name: str, state: str, reason: str) -> None:
    from axiom_server.publish.publish import set_state as set_experiment_state

    count = run_transaction(
        project_of(context), lambda c: set_experiment_state(c, name, state, reason)
    )
    what = "workunits queued again" if state == "active" else "workunits removed from the queue"
    print(f"{name} is {state}; {count} {what}")


@export_app.command("statistics")
def export_statistics(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(help="The output folder; created if missing.")],
) -> None:
    """Write tables.xml, user.gz, host.gz and team.gz, which BOINC's statistics sites read."""
    from axiom_server.transfer.export_statistics import export_statistics as write_statistics

    run_transaction(project_of(context), lambda c: write_statistics(c, target))
    print(f"{target}: tables.xml, user.gz, host.gz, team.gz")


@export_app.command("results")
def export_results(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(help="Output file (default: results.csv or results.parquet here)."),
    ] = None,
    parquet: Annotated[
        bool,
        typer.Option("--parquet", help="Write Parquet (for DuckDB, pandas or R) instead of CSV."),
    ] = False,
    experiment: Annotated[
        list[str] | None, typer.Option(help="Only results of this experiment; may be repeated.")
    ] = None,
) -> None:
    """Export accepted results with seed, parameters, host, seconds and credit."""
    from axiom_server.transfer.export_results import export_results as write_results

    target = file or Path("results.parquet" if parquet else "results.csv")
    run_transaction(
        project_of(context),
        lambda c: write_results(c, target, list(experiment or ()), parquet=parquet),
    )
    print(f"{target}: {target.stat().st_size:,} bytes")


@export_app.command("study")
def export_study(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A study, or an experiment with findings.")],
    folder: Annotated[
        Path | None,
        typer.Argument(help="The new folder (default: named after the study, in this folder)."),
    ] = None,
) -> None:
    """Export a study as an RO-Crate: script, declaration, results, verdicts, maps, notebook."""
    from axiom_server.transfer.export_study import export_study as write_study

    project, target = project_of(context), folder or Path(name)
    summary = run_transaction(project, lambda c: write_study(c, project, name, target))
    print(f"{target}: {summary}")
    print(f"check it: jupyter execute {target / 'reproduce.ipynb'}")
