"""The program `axiom-server`: commands that create a project and run it.

Imports are inside the commands, so that ``axiom-server --help`` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from axiom_protocol import __version__
from axiom_protocol.standard_streams import prepare_standard_streams
from axiom_protocol.text import counted, has_undecoded_bytes
from axiom_server.cli import deploy, inspect, keys, refresh_pages, release, seeds, staff, studies
from axiom_server.cli.shared import (
    Json,
    collect_garbage_less_often,
    print_json,
    project_of,
    run_transaction,
    title_of,
)
from axiom_server.errors import DiskFull, ServerError, Usage

if TYPE_CHECKING:
    from axiom_server.store.database import Connection

REVIEW_ATTEMPTS = 5  # syncs and maintenance may be in its way
PASSPHRASE_VARIABLE = "AXIOM_KEYS_PASSPHRASE"

app = typer.Typer(
    name="axiom-server",
    help="Run a volunteer-computing project: publish experiments, deploy them, review results.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Dir = Annotated[
    Path | None,
    typer.Option(
        "--dir", help="The project folder (default: AXIOM_SERVER_DIR, else the current folder)."
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"axiom-server {__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
    ),
]


@app.callback()
def common(context: typer.Context, folder: Dir = None, version: Version = False) -> None:
    """Options that come before the command."""
    context.obj = folder


def main() -> None:
    """Run the program. An error prints one line and sets the exit code."""
    prepare_standard_streams()
    collect_garbage_less_often()
    try:
        app()
    except ServerError as error:
        _fail(error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _fail(DiskFull(f"no space left on the device: {error.filename or 'the project folder'}"))
    except UnicodeEncodeError as error:
        if not has_undecoded_bytes(error.object):
            raise
        _fail(Usage("a word of the command, or a folder's name, is not UTF-8 text; give another"))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: ServerError) -> None:
    print(f"axiom-server: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(error.exit_code)


@app.command()
def init(
    directory: Annotated[
        Path | None, typer.Argument(help="Where to create it (default: your user data folder).")
    ] = None,
    name: Annotated[str, typer.Option(help="The project's name.")] = "Axiom",
) -> None:
    """Create a project: configuration, signing keys, an empty bundle repository, a database."""
    from axiom_server.project_folder import default_path, initialise

    folder = initialise(
        directory or default_path(), title_of(name), os.environ.get(PASSPHRASE_VARIABLE)
    )
    print(f"project {name!r} in {folder.path}")
    print(f"root key fingerprint {folder.bundles.fingerprint()} (volunteers may check it)")
    if not os.environ.get(PASSPHRASE_VARIABLE):
        print(
            f"the signing keys in {folder.keys} are not encrypted: move root.pem and "
            f"targets.pem to another machine, or run init with {PASSPHRASE_VARIABLE} set"
        )


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8765,
    certificate: Annotated[
        Path | None, typer.Option(help="Serve HTTPS with this certificate chain (PEM).")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The private key of --certificate (PEM).")
    ] = None,
) -> None:
    """Run the server until it is stopped (SIGTERM or Ctrl-C)."""
    from axiom_server.errors import Usage
    from axiom_server.web.serve import Certificate, is_loopback, listen
    from axiom_server.web.serve import serve as serve_forever

    if (certificate is None) != (key is None):
        raise Usage("give both --certificate and --key, or neither")
    folder = project_of(context)
    folder.config()
    tls = Certificate(chain=certificate, key=key) if certificate and key else None
    if tls is not None:
        tls.check()
    listener = listen(host, port)
    shown = f"[{host}]" if ":" in host else host  # an IPv6 address, as RFC 3986 writes it
    print(f"serving {'https' if tls else 'http'}://{shown}:{port}", flush=True)
    if tls is None and not is_loopback(host):
        print("agents refuse plain HTTP to another machine: give --certificate and --key, or put "
              "a web server with a certificate in front of this one", file=sys.stderr)  # fmt: skip
    serve_forever(folder, listener, tls)


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=30.0, help="Roughly how long it may take.")] = 235.0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running.")] = False,
) -> None:
    """Show the whole system on this machine: server, experiments, one volunteer, session log."""
    from axiom_server.cli.demo import run_demo

    run_demo(seconds, keep)


@app.command()
def publish(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Experiment files to sign and publish.")],
    tried: keys.Tried = None,
    skip: keys.Skip = None,
    budget: keys.Budget = None,
    request: keys.ToRequest = None,
    as_json: Json = False,
) -> None:
    """Run experiments in the sandbox, then sign and publish them; older versions are retired."""
    from axiom_server.publish import signed_changes
    from axiom_server.publish.publish import (
        PUBLISHING_ROLES,
        DryRunOptions,
        check_sources,
        publish_and_describe,
    )
    from axiom_server.store import staff as staff_store
    from axiom_server.trust.keys import load_keys

    folder = project_of(context)
    if request is not None:
        keys.request_publication(context, files, request, tried, skip, budget)
        return
    secret = signed_changes.passphrase(folder.keys, PUBLISHING_ROLES, keys.ask_passphrase)
    load_keys(folder.keys, secret, PUBLISHING_ROLES).of("targets")
    options = DryRunOptions(skip=keys.skipped_checks(skip), budget_seconds=budget)
    log = keys.log_to_stderr if as_json else keys.log_to_stdout
    sources, dry_runs = check_sources(folder, files, tried or (), options, log)

    async def work(connection: Connection) -> Any:
        done, notes = await publish_and_describe(connection, folder, sources, dry_runs, secret)
        detail = {"published": [version.manifest.ref for version, _ in done]}
        await staff_store.record(connection, staff_store.command_user(), "publish", detail)
        return done, notes

    published, notes = run_transaction(folder, work)
    if as_json:
        print_json(
            {"published": [p.manifest.ref for p, _ in published], "tried": dry_runs, "told": notes}
        )
        return
    for version, is_new in published:
        note = "" if is_new else " (already published)"
        print(f"{version.manifest.ref} {version.sha256[:16]}{note}")
        for line in notes.get(version.manifest.ref, ()):
            print(f"  {line}")


app.command()(deploy.deploy)
app.command()(refresh_pages.refresh_pages)


@app.command()
def review(
    context: typer.Context,
    note: Annotated[
        list[str] | None, typer.Option(help="A line to add to the session log's next steps.")
    ] = None,
    as_json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the log as Markdown.")
    ] = False,
) -> None:
    """Validate and credit the reported results, and print the session log."""
    from axiom_server.review.log import SessionLog
    from axiom_server.review.review import review as review_results
    from axiom_server.review.session_log import session_log
    from axiom_server.store import sessions

    folder = project_of(context)
    config = folder.config()

    async def work(connection: Connection) -> SessionLog:
        log = await review_results(connection, config)
        for text in note or ():
            await sessions.add_note(connection, text)
        if log.opened and note:
            return await session_log(connection, config, log.session, opened=True)
        return log

    log = run_transaction(folder, work, attempts=REVIEW_ATTEMPTS)
    if not log.opened and not as_json:
        since = f"since session {log.session}" if log.session else "yet"
        print(f"nothing new to review {since}; axiom-server log shows the last session")
        return
    _print_log(log, as_json, markdown)


@app.command(name="log")
def show_log(
    context: typer.Context,
    session: Annotated[
        int | None, typer.Argument(help="Number of the session (default: the latest).")
    ] = None,
    as_json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the log as Markdown.")
    ] = False,
) -> None:
    """Print a session log, including what was deployed after its review."""
    from axiom_server.errors import NotFound
    from axiom_server.review.log import SessionLog
    from axiom_server.review.session_log import session_log
    from axiom_server.store import sessions

    folder = project_of(context)
    config = folder.config()

    async def work(connection: Connection) -> SessionLog:
        found = await sessions.get(connection, session)
        if found is None:
            what = f"no session {session}" if session else "no session yet"
            raise NotFound(f"{what}; axiom-server review opens one when there are results")
        return await session_log(connection, config, found.session_id)

    _print_log(run_transaction(folder, work), as_json, markdown)


@app.command()
def note(context: typer.Context, text: Annotated[str, typer.Argument(help="The text.")]) -> None:
    """Add a line to the next steps of the latest session log."""
    from axiom_server.store import sessions

    run_transaction(project_of(context), lambda c: sessions.add_note(c, text))


@app.command(name="import")
def import_file(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Another project's history (JSON).")],
    source: Annotated[
        str, typer.Option(help="A name for that project; result ids are unique within it.")
    ] = "history",
    as_json: Json = False,
) -> None:
    """Import another project's users, hosts and results. A second import changes nothing."""
    from axiom_server.transfer.import_project import import_history, read_history

    folder = project_of(context)
    history, digest = read_history(file)
    imported = run_transaction(folder, lambda c: import_history(c, history, digest, source))
    if as_json:
        print_json(imported)
        return
    known = f" ({imported.already_known:,} imported before)" if imported.already_known else ""
    print(
        f"{counted(imported.results, 'result')} of {counted(imported.users, 'user')} on "
        f"{counted(imported.hosts, 'host')} "
        f"imported{known}"
    )
    if imported.results:
        print("next: axiom-server review")


@app.command()
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The new file, such as project.tar.gz.")],
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Include the signing keys; keep such a file secret.")
    ] = False,
) -> None:
    """Copy the database, configuration and bundles into one file, while the server runs."""
    from axiom_server.transfer.backup import backup as write_backup

    size = write_backup(project_of(context), file, with_keys)
    print(f"{file}: {size:,} bytes")


SIGN_AGAIN = (
    "hosts may have seen newer signatures than those of the backup, and take nothing older: "
    "publish and withdraw again what was since, then sign once more: axiom-server keys renew"
)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A backup file.")],
    directory: Annotated[Path, typer.Argument(help="The new project folder.")],
) -> None:
    """Create a project from a backup, in a new folder."""
    from axiom_server.transfer.backup import restore as restore_backup

    folder = restore_backup(file, directory)
    print(f"restored in {folder.path}")
    if not folder.keys.exists():
        print(f"the backup holds no signing keys: copy them to {folder.keys}")
    print(SIGN_AGAIN)


@app.command(name="new-epoch")
def new_epoch(context: typer.Context) -> None:
    """Make hosts report again, after restoring the database by other means than `restore`.

    Run it once, after the dump is loaded, with the bundles in place, before the server starts.
    """
    from axiom_server.transfer.backup import begin_epoch

    begin_epoch(project_of(context))
    print("a new epoch has begun: hosts will report again what they reported since the backup")
    print(SIGN_AGAIN)


def _print_log(log: Any, as_json: bool, markdown: bool) -> None:
    from axiom_server.review import log_text
    from axiom_server.review.log import as_json as log_as_json

    if as_json:
        print_json(log_as_json(log))
    else:
        print(log_text.render(log, markdown), end="")


app.add_typer(staff.app, name="staff")
inspect.register(app)
keys.register(app)
app.add_typer(studies.app, name="study")
app.add_typer(seeds.app, name="seeds")
app.add_typer(release.app, name="release")

if __name__ == "__main__":
    main()
