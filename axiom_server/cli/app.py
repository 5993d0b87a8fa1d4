"""The staff's commands. Imports are inside the commands: `--help` answers at once."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from axiom_server.cli import inspect as overview_cli
from axiom_server.cli import keys as keys_cli
from axiom_server.cli.shared import Json, print_json, print_table, project_folder, run
from axiom_server.errors import DiskFull, ServerError

if TYPE_CHECKING:
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
    from axiom_server.project_folder import default_path, initialise

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
    from axiom_server.errors import Usage
    from axiom_server.web import serve as serving

    if (certificate is None) != (key is None):
        raise Usage("--certificate and --key go together")
    folder = project_folder(context)
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
    from axiom_server.cli.demo import run_demo

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
    from axiom_server.publish import publish as publishing
    from axiom_server.publish import signed_changes as holders
    from axiom_server.trust.keys import load_keys

    folder = project_folder(context)
    if request is not None:
        keys_cli.ask_to_publish(context, files, request, tried, skip, budget)
        return
    secret = holders.passphrase(folder.keys, publishing.PUBLISHING_ROLES, keys_cli.ask)
    load_keys(folder.keys, secret, publishing.PUBLISHING_ROLES).of("targets")
    options = publishing.DryRun(skip=keys_cli.checks(skip), budget_seconds=budget)
    tell = keys_cli.progress_aside if as_json else keys_cli.progress
    sources, shown = publishing.check(folder, files, tried or (), options, tell)
    done, told = run(
        folder, lambda c: publishing.publish_and_tell(c, folder, sources, shown, secret)
    )
    if as_json:
        print_json({"published": [p.manifest.ref for p, _ in done], "tried": shown, "told": told})
        return
    for published, new in done:
        note = "" if new else " (it was published already)"
        print(f"{published.manifest.ref} {published.sha256[:16]}{note}")
        for line in told.get(published.manifest.ref, ()) if new else ():
            print(f"  {line}")


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
    from axiom_server.errors import Usage
    from axiom_server.publish import deploy as deployment
    from axiom_server.publish import publish as publishing

    names, chosen = _host_numbers(names, hosts or ())
    fill_idle = fill_idle or bool(chosen and count is None)
    if fill_idle == (count is not None):
        raise Usage("give either --fill-idle or --count N")
    if count is not None and count < 1:
        raise Usage(f"--count must be at least 1, not {count}")
    if ceiling is not None and (count is None or chosen):
        raise Usage("--ceiling is for work of any host: give --count N, and no --hosts")
    folder = project_folder(context)
    order = deployment.Order(
        names=names, fill_idle=fill_idle, count=count or 0, hosts=chosen, gpu=gpu,
        parameters=publishing.read_sweep(parameters) if parameters else ({},),
        budget_seconds=budget, weight=weight, ceiling=ceiling,
    )  # fmt: skip
    config = folder.config()
    made = run(folder, lambda c: deployment.make(c, order, config.deploy))
    if as_json:
        print_json(
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
    print_table(("host", "cpu", "gpu"), [(h, n["cpu"], n["gpu"]) for h, n in made.hosts.items()])
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
    from axiom_server.review import review as reviewing
    from axiom_server.review.log import SessionLog
    from axiom_server.store import sessions

    folder = project_folder(context)
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

    log = run(folder, work)
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
    from axiom_server.errors import NotFound
    from axiom_server.review import review as reviewing
    from axiom_server.review.log import SessionLog
    from axiom_server.store import sessions

    folder = project_folder(context)
    config = folder.config()

    async def work(connection: Connection) -> SessionLog:
        found = await sessions.get(connection, session)
        if found is None:
            what = f"no session {session}" if session else "no session yet"
            raise NotFound(f"{what}; a review that credits something makes one")
        return await reviewing.session_log(connection, config, found.session_id)

    _print_log(run(folder, work), as_json, markdown)


@app.command()
def note(context: typer.Context, text: Annotated[str, typer.Argument(help="A next step.")]) -> None:
    """Add a note to the current session's next steps."""
    from axiom_server.store import sessions

    run(project_folder(context), lambda c: sessions.add_note(c, text))


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
    from axiom_server.transfer import import_project as importing

    folder = project_folder(context)
    history, digest = importing.read_history(file)
    done = run(folder, lambda c: importing.import_history(c, history, digest, source))
    if as_json:
        print_json(done)
        return
    known = f" ({done.already_known:,} were known)" if done.already_known else ""
    print(f"{done.results:,} results of {done.users} users on {done.hosts} hosts imported{known}")
    if done.results:
        print("next: axiom-server review")


@app.command()
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to; a new file, such as project.tar.gz.")],
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Signing keys too: guard such a file well.")
    ] = False,
) -> None:
    """Copy the database, configuration and bundles into one file, while the server runs."""
    from axiom_server.transfer import backup as saving

    size = saving.backup(project_folder(context), file, with_keys)
    print(f"{file}: {size:,} bytes")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    directory: Annotated[Path, typer.Argument(help="A new folder for the project.")],
) -> None:
    """Make a project from a backup, in a new folder."""
    from axiom_server.transfer import backup as saving

    folder = saving.restore(file, directory)
    print(f"restored in {folder.path}")
    if not folder.keys.exists():
        print(f"its keys were not in the backup: copy them to {folder.keys}")


def _print_log(log: Any, as_json: bool, markdown: bool) -> None:
    from axiom_server.review import log as session_log
    from axiom_server.review import log_text as session_text

    if as_json:
        print_json(session_log.as_json(log))
    else:
        print(session_text.render(log, markdown), end="")


overview_cli.register(app)
keys_cli.register(app)

if __name__ == "__main__":
    main()
