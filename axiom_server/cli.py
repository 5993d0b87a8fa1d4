"""The staff's commands. Imports are inside the commands: `--help` answers at once."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from axiom_server import keys_cli
from axiom_server.errors import DiskFull, ServerError

if TYPE_CHECKING:
    from axiom_server.folder import Folder
    from axiom_server.store.database import Connection

T = TypeVar("T")
PASSPHRASE_VARIABLE = "AXIOM_KEYS_PASSPHRASE"

app = typer.Typer(
    name="axiom-server",
    help="Run a volunteer-computing project: publish experiments, deploy them, review what comes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
users_app = typer.Typer(help="Accounts of volunteers.", no_args_is_help=True)
host_app = typer.Typer(help="Keep one host from work, or let it back.", no_args_is_help=True)
experiments_app = typer.Typer(help="Published experiments.", invoke_without_command=True)
app.add_typer(users_app, name="users")
app.add_typer(host_app, name="host")
export_app = typer.Typer(help="What the project knows, for analysis.", no_args_is_help=True)
app.add_typer(experiments_app, name="experiments")
app.add_typer(export_app, name="export")
keys_cli.register(app)

Json = Annotated[bool, typer.Option("--json", help="For machines.")]
Dir = Annotated[
    Path | None,
    typer.Option("--dir", help="The project's folder (else AXIOM_SERVER_DIR, or here)."),
]


@app.callback()
def common(context: typer.Context, folder: Dir = None) -> None:
    """Options of every command."""
    context.obj = folder


def main() -> None:
    """The program: errors become one line and their exit code."""
    try:
        app()
    except ServerError as error:
        _fail(error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _fail(DiskFull(f"no space left on the device: {error.filename or 'the project folder'}"))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: ServerError) -> None:
    print(f"axiom-server: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


# Making and running a project


@app.command()
def init(
    directory: Annotated[Path | None, typer.Argument(help="Where; else a folder of yours.")] = None,
    name: Annotated[str, typer.Option(help="The project's name.")] = "Axiom",
) -> None:
    """Make a project: configuration, signing keys, an empty set of bundles, a database."""
    from axiom_server.folder import default_path, initialise

    made = initialise(directory or default_path(), name, os.environ.get(PASSPHRASE_VARIABLE))
    print(f"project {name!r} in {made.path}")
    print(f"root key fingerprint {made.bundles.fingerprint()} (volunteers may check it)")
    if not os.environ.get(PASSPHRASE_VARIABLE):
        print(
            f"its signing keys lie unencrypted in {made.keys}: keep root.pem and targets.pem "
            f"elsewhere, or init with {PASSPHRASE_VARIABLE} set"
        )


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8765,
    certificate: Annotated[
        Path | None, typer.Option(help="Speak TLS: the certificate's chain, PEM.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="... and its private key, PEM.")] = None,
) -> None:
    """Answer hosts until stopped (SIGTERM or Ctrl-C)."""
    from axiom_server import serving
    from axiom_server.errors import Usage

    if (certificate is None) != (key is None):
        raise Usage("--certificate and --key go together")
    folder = _folder(context)
    folder.config()
    shown = serving.Certificate(chain=certificate, key=key) if certificate and key else None
    if shown is not None:
        shown.check()
    listener = serving.listen(host, port)
    print(f"serving {'https' if shown else 'http'}://{host}:{port}", flush=True)
    if shown is None and not serving.is_loopback(host):
        print("agents refuse plain HTTP to another machine: give --certificate and --key, or put "
              "a web server with a certificate before this one", file=sys.stderr)  # fmt: skip
    serving.serve(folder, listener, shown)


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=30.0, help="About how long it may take.")] = 235.0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server up.")] = False,
) -> None:
    """The main job on this machine: server, experiments, this host as a volunteer, session log."""
    from axiom_server.demo import run_demo

    run_demo(seconds, keep)


@app.command()
def publish(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Experiments to sign and publish.")],
    tried: keys_cli.Tried = None,
    skip: keys_cli.Skip = None,
    budget: keys_cli.Budget = None,
    request: keys_cli.ToRequest = None,
    as_json: Json = False,
) -> None:
    """Try experiments in the sandbox, sign them and make them available; older versions retire."""
    from axiom_server import holders, publishing
    from axiom_server.keys import load_keys

    folder = _folder(context)
    if request is not None:
        keys_cli.ask_to_publish(context, files, request, tried, skip, budget)
        return
    secret = holders.passphrase(folder.keys, publishing.PUBLISHING_ROLES, keys_cli.ask)
    load_keys(folder.keys, secret, publishing.PUBLISHING_ROLES).of("targets")
    options = publishing.DryRun(skip=keys_cli.checks(skip), budget_seconds=budget)
    tell = keys_cli.progress_aside if as_json else keys_cli.progress
    sources, shown = publishing.check(folder, files, tried or (), options, tell)
    done = _run(folder, lambda c: publishing.publish(c, folder, sources, shown, secret))
    if as_json:
        _print_json({"published": [p.manifest.ref for p, _ in done], "tried": shown})
        return
    for published, new in done:
        note = "" if new else " (it was published already)"
        print(f"{published.manifest.ref} {published.sha256[:16]}{note}")


@app.command()
def deploy(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(help="Experiments, as NAME or NAME@VERSION.")],
    fill_idle: Annotated[
        bool, typer.Option("--fill-idle", help="As much as every live host has idle.")
    ] = False,
    count: Annotated[
        int | None, typer.Option(help="So many, for any host, or for each of --hosts.")
    ] = None,
    hosts: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Only these: what they have idle, or --count N."),
    ] = None,
    ceiling: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many of each may wait for any host."),
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="For GPUs only.")] = False,
    parameters: Annotated[
        Path | None, typer.Option(help="TOML with the parameter sets of a sweep.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(min=0.001, help="Nominal seconds of a run, if not declared's.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(min=0.0, help="Share of the open pool against the others'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make new workunits, with seeds never used before."""
    from axiom_server import deployment, publishing
    from axiom_server.errors import Usage

    names, chosen = _host_numbers(names, hosts or ())
    fill_idle = fill_idle or bool(chosen and count is None)
    if fill_idle == (count is not None):
        raise Usage("give either --fill-idle or --count N")
    if count is not None and count < 1:
        raise Usage(f"--count must be at least 1, not {count}")
    if ceiling is not None and (count is None or chosen):
        raise Usage("--ceiling is for work of any host: give --count N, and no --hosts")
    folder = _folder(context)
    order = deployment.Order(
        names=names, fill_idle=fill_idle, count=count or 0, hosts=chosen, gpu=gpu,
        parameters=publishing.read_sweep(parameters) if parameters else ({},),
        budget_seconds=budget, weight=weight, ceiling=ceiling,
    )  # fmt: skip
    config = folder.config()
    made = _run(folder, lambda c: deployment.make(c, order, config.deploy))
    if as_json:
        _print_json(
            {
                "workunits": made.workunits,
                "pool": made.pool,
                "experiments": made.experiments,
                "hosts": {str(host): n for host, n in made.hosts.items()},
                "standing": made.standing,
            }
        )
        return
    for_any = made.pool and not made.hosts
    where = "for any host" if for_any else f"across {len(made.hosts)} hosts"
    print(f"{made.workunits:,} workunits deployed {where}")
    _table(("host", "cpu", "gpu"), [(h, n["cpu"], n["gpu"]) for h, n in made.hosts.items()])
    if made.pool and not for_any:
        print(f"{made.pool:,} of them wait for any host")
    if made.standing:
        hours = f"{config.deploy.hold_hours:g}"
        print(f"no host has anything idle; those that join within {hours} hours will be filled")
    elif not made.workunits and ceiling:
        print(f"as many as {ceiling:,} wait already: axiom-server status shows them")
    elif not made.workunits:
        print("none of these hosts has anything idle: axiom-server hosts shows them")


def _host_numbers(names: list[str], given: Sequence[str]) -> tuple[list[str], list[int]]:
    """``--hosts 1 2``, ``--hosts 1,2``, ``--hosts 1 --hosts 2``: no experiment's name is a number.

    Returns the experiments, and the hosts. Raises Usage.
    """
    from axiom_server.errors import Usage

    also = [name for name in names if given and name.isascii() and name.isdigit()]
    named = [part for text in given for part in text.split(",") if part] + also
    if wrong := [part for part in named if not (part.isascii() and part.isdigit())]:
        raise Usage(f"--hosts takes numbers, not {wrong[0]!r}; axiom-server hosts shows them")
    return [name for name in names if name not in also], sorted({int(part) for part in named})


@app.command()
def review(
    context: typer.Context,
    note: Annotated[
        list[str] | None, typer.Option(help="A next step, for the session log.")
    ] = None,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The log in Markdown.")] = False,
) -> None:
    """Validate and credit what was reported, and print the session log."""
    from axiom_server import review as reviewing
    from axiom_server.session_log import SessionLog
    from axiom_server.store import sessions

    folder = _folder(context)
    config = folder.config()

    async def work(connection: Connection) -> SessionLog:
        log = await reviewing.review(connection, config)
        for text in note or ():
            await sessions.add_note(connection, text)
        return (
            await reviewing.session_log(connection, config, log.session, opened=True)
            if (log.opened and note)
            else log
        )

    log = _run(folder, work)
    if not log.opened and not as_json:
        since = f"since session {log.session}" if log.session else "yet"
        print(f"nothing new to review {since}; axiom-server log shows the last session")
        return
    _print_log(log, as_json, markdown)


@app.command(name="log")
def show_log(
    context: typer.Context,
    session: Annotated[int | None, typer.Argument(help="Its number; the latest if none.")] = None,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="In Markdown.")] = False,
) -> None:
    """Print a session log, with everything that was deployed after its review."""
    from axiom_server import review as reviewing
    from axiom_server.errors import NotFound
    from axiom_server.session_log import SessionLog
    from axiom_server.store import sessions

    folder = _folder(context)
    config = folder.config()

    async def work(connection: Connection) -> SessionLog:
        found = await sessions.get(connection, session)
        if found is None:
            what = f"no session {session}" if session else "no session yet"
            raise NotFound(f"{what}; a review that credits something makes one")
        return await reviewing.session_log(connection, config, found.session_id)

    _print_log(_run(folder, work), as_json, markdown)


@app.command()
def note(context: typer.Context, text: Annotated[str, typer.Argument(help="A next step.")]) -> None:
    """Add a note to the current session's next steps."""
    from axiom_server.store import sessions

    _run(_folder(context), lambda c: sessions.add_note(c, text))


@app.command(name="import")
def import_file(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Another project's history, as JSON.")],
    source: Annotated[
        str, typer.Option(help="Which project: result ids are unique within one.")
    ] = "history",
    as_json: Json = False,
) -> None:
    """Bring another project's users, hosts and results in. The same file twice changes nothing."""
    from axiom_server import importing

    folder = _folder(context)
    history, digest = importing.read_history(file)
    done = _run(folder, lambda c: importing.import_history(c, history, digest, source))
    if as_json:
        _print_json(done)
        return
    known = f" ({done.already_known:,} were known)" if done.already_known else ""
    print(f"{done.results:,} results of {done.users} users on {done.hosts} hosts imported{known}")
    if done.results:
        print("next: axiom-server review")


@export_app.command("results")
def export_results(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="Where to; else results.csv or results.parquet here.")
    ] = None,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Parquet, for DuckDB, pandas, R; else CSV.")
    ] = False,
    experiment: Annotated[
        list[str] | None, typer.Option(help="Only of this experiment (repeat for more).")
    ] = None,
) -> None:
    """Every accepted result with its seed, parameters, host, seconds and credit."""
    from axiom_server import exporting

    target = file or Path("results.parquet" if parquet else "results.csv")
    _run(
        _folder(context),
        lambda c: exporting.results(c, target, list(experiment or ()), parquet=parquet),
    )
    print(f"{target}: {target.stat().st_size:,} bytes")


@app.command()
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to; a new file, such as project.tar.gz.")],
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Signing keys too: guard such a file well.")
    ] = False,
) -> None:
    """Copy the database, configuration and bundles into one file, while the server runs."""
    from axiom_server import backup as saving

    size = saving.backup(_folder(context), file, with_keys)
    print(f"{file}: {size:,} bytes")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    directory: Annotated[Path, typer.Argument(help="A new folder for the project.")],
) -> None:
    """Make a project from a backup, in a new folder."""
    from axiom_server import backup as saving

    folder = saving.restore(file, directory)
    print(f"restored in {folder.path}")
    if not folder.keys.exists():
        print(f"its keys were not in the backup: copy them to {folder.keys}")


# Looking


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """What the project holds now."""
    from axiom_server.session_log import number
    from axiom_server.store import overview

    found = _run(_folder(context), overview.totals)
    if as_json:
        _print_json(found)
        return
    for key, value in found["totals"].items():
        print(f"{key.replace('_', ' '):<24} {number(value):>12,}")
    _table(
        ("experiment", "any host", "one host", "leased"),
        [(e["name"], e["pool"], e["held"], e["leased"]) for e in found["experiments"]],
    )
    for alarm in found["alarms"]:
        print(f"alarm: {alarm['experiment']}: {alarm['message']}")


@app.command()
def hosts(
    context: typer.Context,
    most: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1000,
    as_json: Json = False,
) -> None:
    """Hosts, the latest heard of first."""
    from axiom_server.store import hosts as store

    found = _run(_folder(context), lambda c: store.listing(c, most))
    if as_json:
        _print_json([line._asdict() for line in found])
        return
    _table(
        ("host", "name", "user", "state", "cores", "gpus", "idle", "leased", "credit"),
        [
            (h.host_id, h.name, h.user or "-", "imported" if h.imported else h.state, h.cpu_cores,
             h.gpus, f"{h.idle_cpu}+{h.idle_gpu}", h.leased, f"{h.credit_total:g}")
            for h in found
        ],
    )  # fmt: skip


@host_app.command()
def quarantine(
    context: typer.Context, host: int, reason: Annotated[str, typer.Option()] = "by staff"
) -> None:
    """Give a host no more work."""
    _set_host(context, host, "quarantined", reason)


@host_app.command()
def release(context: typer.Context, host: int) -> None:
    """Let a quarantined host work again; its results are checked as a new host's are."""
    _set_host(context, host, "active", "")


def _set_host(context: typer.Context, host: int, state: str, reason: str) -> None:
    from axiom_server.errors import NotFound
    from axiom_server.store import hosts as store

    if not _run(_folder(context), lambda c: store.set_state(c, host, state, reason)):
        raise NotFound(f"no host {host}; axiom-server hosts lists them")
    print(f"host {host} is {state}" + (f": {reason}" if reason else ""))


@users_app.command("add")
def users_add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The volunteer's name.")],
    as_json: Json = False,
) -> None:
    """Make an account, or give an imported user his key; the key is shown this once."""
    from axiom_server.errors import Usage
    from axiom_server.store import users as store

    key, stored = store.new_secret()
    user_id = _run(_folder(context), lambda c: store.add(c, name, stored))
    if user_id is None:
        raise Usage(f"the name {name!r} is taken by an account that has a key")
    if as_json:
        _print_json({"user_id": user_id, "user": name, "account_key": key})
    else:
        print(f"user {user_id} {name}\naccount key {key}")


@users_app.command("list")
def users_list(
    context: typer.Context,
    most: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1000,
    as_json: Json = False,
) -> None:
    """Users by credit."""
    from axiom_server.store import users as store

    found = _run(_folder(context), lambda c: store.listing(c, most))
    if as_json:
        _print_json([line._asdict() for line in found])
        return
    _table(
        ("user", "name", "hosts", "credit", "recent average"),
        [(u.user_id, u.name, u.hosts, f"{u.credit_total:g}", f"{u.average:.1f}") for u in found],
    )


@app.command()
def tasks(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(help="leased, reported, reviewed or lost.")] = None,
    most: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: Json = False,
) -> None:
    """Tasks, the newest first."""
    from axiom_server.errors import Usage
    from axiom_server.store import tasks as store

    if state is not None and state not in store.STATES:
        raise Usage(f"there is no state {state!r}; give one of {', '.join(store.STATES)}")
    found = _run(_folder(context), lambda c: store.listing(c, state, most))
    if as_json:
        _print_json([line._asdict() for line in found])
        return
    _table(
        ("task", "experiment", "host", "device", "purpose", "state", "outcome", "elapsed", "why"),
        [
            (t.task_id, t.experiment, t.host_id, t.device, t.purpose, t.state, t.outcome or "-",
             f"{t.elapsed_seconds:.1f}" if t.elapsed_seconds is not None else "-", t.refusal)
            for t in found
        ],
    )  # fmt: skip


@experiments_app.callback()
def experiments_list(context: typer.Context, as_json: Json = False) -> None:
    """Published experiments and their state."""
    if context.invoked_subcommand is not None:
        return
    from axiom_server.store import experiments as store

    found = _run(_folder(context), store.versions)
    if as_json:
        _print_json(
            [
                {"name": v.name, "version": v.version, "state": v.state, "why": v.state_reason,
                 "weight": v.weight, "sha256": v.sha256, "title": v.manifest.title}
                for v in found
            ]
        )  # fmt: skip
        return
    _table(
        ("experiment", "state", "weight", "title", "why"),
        [(v.manifest.ref, v.state, v.weight, v.manifest.title, v.state_reason) for v in found],
    )


@experiments_app.command()
def retire(
    context: typer.Context, name: str, reason: Annotated[str, typer.Option()] = "by staff"
) -> None:
    """Deploy and lease no more of an experiment; what runs may finish."""
    _set_experiment(context, name, "retired", reason)


@experiments_app.command()
def resume(context: typer.Context, name: str) -> None:
    """Let a retired or stopped experiment run again; what it left unfinished waits again."""
    _set_experiment(context, name, "active", "")


def _set_experiment(context: typer.Context, name: str, state: str, reason: str) -> None:
    from axiom_server import publishing

    count = _run(_folder(context), lambda c: publishing.set_state(c, name, state, reason))
    what = "workunits wait again" if state == "active" else "workunits left the queue"
    print(f"{name} is {state}; {count} {what}")


# How


def _folder(context: typer.Context) -> Folder:
    from axiom_server.folder import find

    root = context.find_root()
    return find(root.obj)


def _run(folder: Folder, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Do ``work`` in one transaction on the project's database."""
    import psycopg

    from axiom_server.store.database import connect, unreachable

    async def inside(conninfo: str) -> T:
        async with connect(conninfo) as connection:
            return await work(connection)

    with folder.database() as conninfo:
        try:
            return asyncio.run(inside(conninfo))
        except psycopg.errors.DiskFull:
            raise DiskFull(f"no space left for the database in {folder.path}") from None
        except psycopg.OperationalError as error:
            raise unreachable(error) from None


def _print_log(log: Any, as_json: bool, markdown: bool) -> None:
    from axiom_server import session_log, session_text

    if as_json:
        _print_json(session_log.as_json(log))
    else:
        print(session_text.render(log, markdown), end="")


def _print_json(value: Any) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())


def _table(heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    texts = [[str(cell) for cell in line] for line in lines]
    if not texts:
        return
    widths = [max(len(line[i]) for line in [list(heads), *texts]) for i in range(len(heads))]
    for line in [list(heads), *texts]:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    main()
