"""The commands that steer a running agent, through its socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from axiom_client.cli.shared import AsJson, say
from axiom_client.folders import find_folders

if TYPE_CHECKING:
    from axiom_client.decide.model import AfterDrain

task_app = typer.Typer(help="Steer single tasks.", no_args_is_help=True)

Gpu = Annotated[int | None, typer.Option("--gpu", help="One GPU alone, by its number.", min=0)]


def steer(app: typer.Typer) -> None:
    """Give ``app`` these commands."""
    for command in (pause, resume, drain, sync, stop):
        app.command()(command)


def pause(
    for_: Annotated[
        str, typer.Option("--for", help='How long, such as "2h"; else until resumed.')
    ] = "",
    gpu: Gpu = None,
    as_json: AsJson = False,
) -> None:
    """Suspend all tasks where they stand, or those of one GPU."""
    from axiom_client.config.quantities import show_seconds

    seconds = _seconds("--for", for_)
    _ask("pause", seconds=seconds, gpu=gpu)
    what = "paused" if gpu is None else f"GPU {gpu} is paused"
    say(
        f"{what} for {show_seconds(seconds)}"
        if seconds is not None
        else f"{what}; go on with: axiom-client resume",
        {"done": "pause", "seconds": seconds, "gpu": gpu},
        as_json=as_json,
    )


def resume(gpu: Gpu = None, as_json: AsJson = False) -> None:
    """End every pause and drain, or the pause of one GPU."""
    _ask("resume", gpu=gpu)
    what = "resumed" if gpu is None else f"GPU {gpu} is resumed"
    say(what, {"done": "resume", "gpu": gpu}, as_json=as_json)


def drain(
    reason: Annotated[str, typer.Option(help="What the project is told.")] = "",
    then: Annotated[
        str, typer.Option("--then", help="What follows: exit, pause, or stay.", metavar="WHAT")
    ] = "stay",
    deadline: Annotated[
        str,
        typer.Option("--deadline", help='What still runs after so long, such as "2h", is ended.'),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Finish what runs, give back what waits, take nothing new; also after a restart."""
    chosen, seconds = _then(then), _seconds("--deadline", deadline)
    _ask("drain", reason=reason, then=chosen, seconds=seconds)
    say(
        "draining; go on with: axiom-client resume",
        {"done": "drain", "reason": reason, "then": chosen, "deadline_seconds": seconds},
        as_json=as_json,
    )


def sync(as_json: AsJson = False) -> None:
    """Contact the server now."""
    _ask("sync")
    say("contacting the server", {"done": "sync"}, as_json=as_json)


def stop(as_json: AsJson = False) -> None:
    """End the running agent politely."""
    _ask("stop")
    say("stopping", {"done": "stop"}, as_json=as_json)


@task_app.command("abort")
def abort(
    task_id: Annotated[int, typer.Argument(help="As shown by: axiom-client tasks")],
    as_json: AsJson = False,
) -> None:
    """End one task; it is reported as cancelled."""
    _ask("abort", task_id=task_id)
    facts = {"done": "abort", "task_id": task_id}
    say(f"task {task_id} is being ended", facts, as_json=as_json)


def _seconds(option: str, text: str) -> float | None:
    from axiom_client.config.quantities import read_seconds
    from axiom_client.errors import BadValue

    try:
        return read_seconds(text) if text else None
    except ValueError as error:
        raise BadValue(f"{option} {text!r} {error}") from None


def _then(text: str) -> AfterDrain:
    from axiom_client.errors import BadValue

    choices: dict[str, AfterDrain] = {"exit": "exit", "pause": "pause", "stay": "stay"}
    if text not in choices:
        raise BadValue(f"--then {text!r} is none of exit, pause and stay")
    return choices[text]


def _ask(verb: Any, **fields: Any) -> None:
    from axiom_client.control.server import Request, ask

    ask(find_folders().control_socket, Request(do=verb, **fields))
