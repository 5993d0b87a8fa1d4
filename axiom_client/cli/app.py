"""The command line ``axiom-client``. Commands import what they need, so that --help is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from axiom_client.cli.account import app as account_app
from axiom_client.cli.account import mode
from axiom_client.cli.config import app as config_app
from axiom_client.cli.control import add_control_commands, task_app
from axiom_client.cli.service import app as service_app
from axiom_client.cli.shared import AsJson, Flags, load, print_json
from axiom_client.errors import AxiomError
from axiom_client.folders import Folders, find_folders
from axiom_client.storage import translate_storage_errors
from axiom_protocol import __version__
from axiom_protocol.standard_streams import prepare_standard_streams
from axiom_protocol.text import has_undecoded_bytes

if TYPE_CHECKING:
    from axiom_client.config.schema import Config
    from axiom_client.control.snapshot import Snapshot
    from axiom_client.project.api import Network

app = typer.Typer(
    name="axiom-client",
    help="Volunteer this computer's idle cores and GPUs for the science of neural networks.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(config_app, name="config")
app.add_typer(account_app, name="account")
app.add_typer(task_app, name="task")
app.add_typer(service_app, name="service")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"axiom-client {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Accept the options that come before a command."""


def main() -> None:
    """Run a command. An AxiomError is printed as one line and sets the exit code."""
    prepare_standard_streams()
    try:
        with translate_storage_errors():
            app()
    except AxiomError as error:
        print(f"axiom-client: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except UnicodeEncodeError as error:
        if not has_undecoded_bytes(error.object):
            raise
        print(
            "axiom-client: a word of the command, or the name of a folder (AXIOM_CLIENT_DIR, HOME, "
            "TMPDIR), is not UTF-8 text; give another",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


# --- attach and run -------------------------------------------------------------------------------


@app.command()
def attach(
    url: Annotated[str, typer.Argument(help="The address of the project's server.", metavar="URL")],
    account_key: Annotated[str, typer.Option(help="Key of an account that this host joins.")] = "",
    user: Annotated[str, typer.Option(help="Name of a new account.")] = "",
    name: Annotated[str, typer.Option(help="Name of this host in the project.")] = "",
    fingerprint: Annotated[
        str,
        typer.Option(
            "--root-fingerprint",
            "--fingerprint",
            help="Fingerprint of the project's signing root, from a source you trust; checked.",
        ),
    ] = "",
) -> None:
    """Join a project."""
    import asyncio

    from axiom_client.agent.attach import attach as join

    folders = find_folders()
    config = load(folders)
    identity = asyncio.run(
        join(
            folders,
            url,
            _network(config),
            account_key=account_key,
            user=user,
            host_name=name or config["host.name"],
            fingerprint=fingerprint or None,
        )
    )
    of_user = f" of {identity.user}" if identity.user else ""
    print(f"attached to {identity.project} as host {identity.host_id}{of_user}")
    print(f"fingerprint of its signing root: {identity.root_fingerprint}")
    if identity.account_key and not account_key:
        print(f"to add another host to this account: --account-key {identity.account_key}")
    print("to start: axiom-client run")


@app.command()
def detach() -> None:
    """Leave the project: send reports, give unfinished tasks back, delete the identity."""
    import asyncio

    from axiom_client.agent.attach import detach as leave

    folders = find_folders()
    problem = asyncio.run(leave(folders, _network(load(folders))))
    print(f"detached, but the project could not be notified: {problem}" if problem else "detached")


@app.command()
def run(
    display: Annotated[
        bool | None,
        typer.Option("--display/--no-display", help="Live display, or log lines."),
    ] = None,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End when the server has no more work.")
    ] = False,
    seconds: Annotated[float | None, typer.Option(help="End after this time.", min=0)] = None,
    flags: Flags = None,
    record_events: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the agent in this terminal."""
    from axiom_client.agent.attach import known_identity
    from axiom_client.agent.run_options import RunOptions
    from axiom_client.cli.run import become_launcher, run_agent

    folders = find_folders()
    identity = known_identity(folders)
    config = load(folders, flags or [])
    become_launcher(config, sys.argv[sys.argv.index("run") + 1 :])
    options = RunOptions(
        until_idle=until_idle,
        seconds=seconds,
        flags=flags or [],
        record_events=record_events,
    )
    show = sys.stdout.isatty() if display is None else display and sys.stdout.isatty()
    reason = run_agent(folders, config, identity, options, display=show)
    print(f"ended: {reason}")


# --- show -----------------------------------------------------------------------------------------


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show what the agent does, and why slots are idle."""
    shot = _snapshot(find_folders())
    if as_json:
        print_json(shot)
        return
    from rich.console import Console

    from axiom_client.cli.display import render

    console = Console(highlight=False)
    console.print(render(shot, min(console.width, 100), 10_000))
    console.print(f"axiom-client {shot.version}")


@app.command()
def tasks(as_json: AsJson = False) -> None:
    """List the tasks on this host."""
    from axiom_client.config.quantities import show_seconds

    shot = _snapshot(find_folders())
    if as_json:
        print_json({"tasks": shot.tasks})
        return
    for task in shot.tasks:
        left = "" if task.left_seconds is None else f", {show_seconds(task.left_seconds)} left"
        detail = task.reason or task.outcome or f"{task.progress:.0%}{left}"
        name = f"{task.experiment}@{task.version}"
        print(f"{task.task_id:>8}  {task.state:<8}  {task.slot or '-':<7}  {name:<34} {detail}")
    if not shot.tasks:
        print("no tasks on this host")


@app.command()
def top(as_json: AsJson = False) -> None:
    """Show the running agent, updated live; end with Ctrl-C."""
    if as_json:
        print_json(_snapshot(find_folders()))
        return
    from axiom_client.cli.display import show_top

    show_top(find_folders().control_socket)


@app.command()
def log(
    lines: Annotated[int, typer.Option("--lines", "-n", help="Number of lines.", min=1)] = 30,
    as_json: AsJson = False,
) -> None:
    """Show the last lines of the agent's log."""
    from collections import deque

    try:
        with find_folders().log_file.open(encoding="utf-8", errors="replace") as file:
            last = [line.rstrip("\n") for line in deque(file, maxlen=lines)]
    except FileNotFoundError:
        last = []
    if as_json:
        print_json({"lines": last})
    else:
        print("\n".join(last) or "nothing logged yet")


# --- control the running agent --------------------------------------------------------------------

add_control_commands(app)
app.command()(mode)


# --- test this host or an experiment --------------------------------------------------------------


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Test whether the sandbox works on this host."""
    from axiom_client.cli.doctor import print_sandbox_test

    print_sandbox_test(as_json=as_json)


@app.command("try")
def try_(
    file: Annotated[Path, typer.Argument(help="The experiment's script.")],
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.", min=0)] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="1..8", help="Run these seeds and print the findings' verdicts."),
    ] = None,
    param: Annotated[list[str] | None, typer.Option(help="name=value; may be repeated.")] = None,
    budget: Annotated[float | None, typer.Option(help="Nominal seconds of work.", min=0)] = None,
    device: Annotated[str, typer.Option(help='"cpu", "gpu" or "gpu:1".')] = "cpu",
    plot: Annotated[Path | None, typer.Option(help="Image file for its figures.")] = None,
    with_seed: Annotated[
        list[int] | None,
        typer.Option(help="Further seed, run in the same process; may be repeated.", min=0),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run an experiment in the sandbox that volunteers use: once, or as a small study."""
    from axiom_client.cli.try_experiment import try_file
    from axiom_client.errors import TrialFailed

    if seeds is not None:
        if seed is not None or plot is not None or device != "cpu":
            raise TrialFailed("--seeds cannot be combined with --seed, --plot or --device")
        from axiom_client.cli.try_seeds import read_seeds, try_seeds

        try_seeds(
            file, seeds=read_seeds(seeds), given=param or [], budget_seconds=budget,
            as_json=as_json,
        )  # fmt: skip
        return
    if seed is None:
        raise TrialFailed("give a seed: --seed 1, or --seeds 1..8 for a small study")
    try_file(
        file,
        seed=seed,
        given=param or [],
        budget_seconds=budget,
        device=device,
        plot=plot,
        as_json=as_json,
        other_seeds=with_seed or [],
    )


@app.command("try-many", hidden=True)
def try_many_() -> None:
    """Make the runs that are listed on standard input; ``axiom-server publish`` calls it."""
    from axiom_client.cli.try_many import try_many

    try_many()


# --- helpers --------------------------------------------------------------------------------------


def _network(config: Config) -> Network:
    from axiom_client.project.api import Network

    return Network(proxy=config["network.proxy"], ca_bundle=config["network.ca_bundle"])


def _snapshot(folders: Folders) -> Snapshot:
    """The running agent's snapshot, else one from its journal."""
    from axiom_client.cli.offline import known_snapshot

    return known_snapshot(folders)
