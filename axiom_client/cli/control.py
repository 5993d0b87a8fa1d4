"""The commands that control a running agent, through its socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from axiom_client.cli.shared import AsJson, print_result
from axiom_client.folders import find_folders

if TYPE_CHECKING:
    from axiom_client.decide.model import AfterDrain

task_app = typer.Typer(help="Control a single task.", no_args_is_help=True)

Gpu = Annotated[int | None, typer.Option("--gpu", help="Only the GPU of this number.", min=0)]


def add_control_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    for command in (pause, resume, drain, sync, stop):
        app.command()(command)


def pause(
    for_: Annotated[
        str, typer.Option("--for", help='Duration, such as "2h"; else until resumed.')
    ] = "",
    gpu: Gpu = None,
    as_json: AsJson = False,
) -> None:
    """Suspend all tasks, or those of one GPU."""
    from axiom_client.config.quantities import show_seconds

    seconds = _seconds("--for", for_)
    _send("pause", seconds=seconds, gpu=gpu)
    what = "paused" if gpu is None else f"GPU {gpu} is paused"
    print_result(
        f"{what} for {show_seconds(seconds)}"
        if seconds is not None
        else f"{what}; to continue: axiom-client resume",
        {"done": "pause", "seconds": seconds, "gpu": gpu},
        as_json=as_json,
    )


def resume(gpu: Gpu = None, as_json: AsJson = False) -> None:
    """End every pause and drain, or the pause of one GPU."""
    _send("resume", gpu=gpu)
    what = "resumed" if gpu is None else f"GPU {gpu} is resumed"
    print_result(what, {"done": "resume", "gpu": gpu}, as_json=as_json)


def drain(
    reason: Annotated[str, typer.Option(help="Reason, shown to you and the project.")] = "",
    then: Annotated[
        str, typer.Option("--then", help="What to do then: exit, pause or stay.", metavar="WHAT")
    ] = "stay",
    deadline: Annotated[
        str,
        typer.Option("--deadline", help='Stop tasks that still run after this time, such as "2h".'),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Finish running tasks, give waiting ones back and take none. Holds over restarts."""
    chosen, seconds = _then(then), _seconds("--deadline", deadline)
    _send("drain", reason=reason, then=chosen, seconds=seconds)
    print_result(
        "draining; to take tasks again: axiom-client resume",
        {"done": "drain", "reason": reason, "then": chosen, "deadline_seconds": seconds},
        as_json=as_json,
    )


def sync(as_json: AsJson = False) -> None:
    """Contact the server now."""
    _send("sync")
    print_result("contacting the server", {"done": "sync"}, as_json=as_json)


def stop(as_json: AsJson = False) -> None:
    """Stop the agent; running tasks write checkpoints and go on at the next start."""
    _send("stop")
    print_result("stopping", {"done": "stop"}, as_json=as_json)


@task_app.command("abort")
def abort(
    task_id: Annotated[int, typer.Argument(help="Number, as listed by: axiom-client tasks")],
    as_json: AsJson = False,
) -> None:
    """Stop a task and report it as cancelled."""
    _send("abort", task_id=task_id)
    facts = {"done": "abort", "task_id": task_id}
    print_result(f"stopping task {task_id}", facts, as_json=as_json)


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
        raise BadValue(f"--then {text!r} must be exit, pause or stay")
    return choices[text]


def _send(verb: Any, **fields: Any) -> None:
    from axiom_client.control.server import Request, ask

    ask(find_folders().control_socket, Request(do=verb, **fields))
