"""The command `axiom-server deploy`: its options, its checks, and what it prints.

Imports are inside the functions, so that ``axiom-server --help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from axiom_protocol.text import counted
from axiom_server.cli.shared import Json, print_json, print_table, project_of, run_transaction

if TYPE_CHECKING:
    from axiom_server.publish.deploy import Deployed
    from axiom_server.store.database import Connection


def deploy(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(help="Experiments, as NAME or NAME@VERSION.")],
    fill_idle: Annotated[
        bool, typer.Option("--fill-idle", help="Fill the idle cores and GPUs of every live host.")
    ] = False,
    count: Annotated[
        int | None,
        typer.Option(help="Number of workunits: in total, or for each host of --hosts."),
    ] = None,
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID", help="Only these hosts; fills their idle slots unless --count is given."
        ),
    ] = None,
    ceiling: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --count: queue each experiment up to this many workunits at most."
        ),
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Deploy to GPUs only.")] = False,
    parameters: Annotated[
        Path | None, typer.Option(help="TOML file with the parameter sets of a sweep.")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Seconds for each run (default: what the experiment declares)."
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="The experiment's relative share of the common queue (default 1)."
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=V1,V2",
            help="Values of a parameter; repeat it to deploy every combination. Needs --seeds.",
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="With --sweep: number of seeds for each combination.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Create new workunits, with seeds that were never used before."""
    if sweep or seeds is not None:
        _refuse_with_sweep(
            fill_idle=fill_idle, count=count, hosts=hosts, gpu=gpu, parameters=parameters,
            ceiling=ceiling, weight=weight,
        )  # fmt: skip
        _deploy_sweep(context, names, sweep or (), seeds, budget, as_json)
        return
    from axiom_server.publish.deploy import Order, execute_order
    from axiom_server.publish.publish import read_sweep
    from axiom_server.store import staff

    names, host_ids = _separate_host_ids(names, hosts or ())
    fill_idle = fill_idle or bool(host_ids and count is None)
    _check_options(fill_idle, count, host_ids, ceiling)
    folder = project_of(context)
    order = Order(
        names=names, fill_idle=fill_idle, count=count or 0, hosts=host_ids, gpu=gpu,
        parameters=read_sweep(parameters) if parameters else ({},),
        budget_seconds=budget, weight=weight, ceiling=ceiling,
    )  # fmt: skip
    config = folder.config()

    async def work(connection: Connection) -> Deployed:
        done = await execute_order(connection, order, config.deploy, config.standing)
        detail = {"experiments": names, "workunits": done.workunits}
        await staff.record(connection, staff.command_user(), "deploy", detail)
        return done

    deployed = run_transaction(folder, work)
    if as_json:
        print_json(_as_json(deployed))
    else:
        _print_deployed(deployed)
        _explain_if_none_deployed(deployed, ceiling, config.deploy.hold_hours)


def _refuse_with_sweep(**others: object) -> None:
    """Raise Usage when --sweep is combined with options that it does not support."""
    from axiom_server.errors import Usage

    for name, value in others.items():
        if value:
            raise Usage(f"--sweep cannot be combined with --{name.replace('_', '-')}")


def _deploy_sweep(
    context: typer.Context, names: Sequence[str], sweep: Sequence[str], seeds: int | None,
    budget: float | None, as_json: bool,
) -> None:  # fmt: skip
    from axiom_server.errors import Usage
    from axiom_server.publish.sweeps import deploy_sweep, read_axes

    if len(names) != 1 or not sweep or seeds is None:
        raise Usage("a sweep needs one experiment, --sweep NAME=V1,V2 and --seeds N")
    axes = read_axes(sweep)
    made = run_transaction(
        project_of(context), lambda c: deploy_sweep(c, names[0], axes, seeds, budget)
    )
    if as_json:
        print_json({"workunits": made, "parameter_sets": made // seeds, "seeds": seeds})
    else:
        sets = counted(made // seeds, "parameter set")
        print(f"{counted(made, 'workunit')} deployed: {sets}, {counted(seeds, 'seed')} each")


def _separate_host_ids(names: list[str], given: Sequence[str]) -> tuple[list[str], list[int]]:
    """Experiment names and host ids from ``--hosts 1 2``, ``--hosts 1,2`` or a repeated option.

    In ``--hosts 1 2`` the command-line parser reads ``2`` as an experiment. No experiment's name
    is a number, so it is taken as a host. Raises Usage.
    """
    from axiom_server.errors import Usage

    misplaced = [name for name in names if given and _is_number(name)]
    listed = [part for text in given for part in text.split(",") if part] + misplaced
    if wrong := [part for part in listed if not _is_number(part)]:
        raise Usage(f"--hosts takes numbers, not {wrong[0]!r}; axiom-server hosts lists them")
    return [name for name in names if name not in misplaced], sorted({int(part) for part in listed})


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _check_options(
    fill_idle: bool, count: int | None, host_ids: Sequence[int], ceiling: int | None
) -> None:
    """Raise Usage when the options contradict each other."""
    from axiom_server.errors import Usage

    if fill_idle == (count is not None):
        raise Usage("give either --fill-idle or --count N")
    if count is not None and count < 1:
        raise Usage(f"--count must be at least 1, not {count}")
    if ceiling is not None and (count is None or host_ids):
        raise Usage("--ceiling limits the common queue: give --count N, and no --hosts")


def _as_json(deployed: Deployed) -> dict[str, object]:
    return {
        "workunits": deployed.workunits,
        "pool": deployed.pool,
        "experiments": deployed.experiments,
        "hosts": {str(host): counts for host, counts in deployed.hosts.items()},
        "standing": deployed.standing,
    }


def _print_deployed(deployed: Deployed) -> None:
    only_pool = deployed.pool and not deployed.hosts
    where = "for any host" if only_pool else f"across {counted(len(deployed.hosts), 'host')}"
    print(f"{counted(deployed.workunits, 'workunit')} deployed {where}")
    print_table(
        ("host", "cpu", "gpu"),
        [(host, counts["cpu"], counts["gpu"]) for host, counts in deployed.hosts.items()],
    )
    if deployed.pool and not only_pool:
        print(f"{deployed.pool:,} of them wait for any host")


def _explain_if_none_deployed(deployed: Deployed, ceiling: int | None, hold_hours: float) -> None:
    """Print why nothing was deployed, and what happens next."""
    if deployed.standing:
        print(
            "no host has idle cores or GPUs now; hosts that join within "
            f"{hold_hours:g} hours will get work"
        )
    elif not deployed.workunits and ceiling:
        print(f"{ceiling:,} or more wait already; axiom-server status shows the queue")
    elif not deployed.workunits:
        print("none of these hosts has idle cores or GPUs; axiom-server hosts shows them")
