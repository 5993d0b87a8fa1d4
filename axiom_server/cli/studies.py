"""The commands `axiom-server study ...`: studies over many parameter sets.

Imports are inside the functions, so that ``axiom-server --help`` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from axiom_protocol.text import counted
from axiom_server.cli.keys import KeysDir, ToRequest, sign_or_write_request
from axiom_server.cli.shared import Json, print_json, print_table, project_of, run_transaction

if TYPE_CHECKING:
    from axiom_protocol.verdicts.study_design import StudyDesign
    from axiom_protocol.verdicts.study_verdicts import StudyData
    from axiom_server.project_folder import ProjectFolder
    from axiom_server.store.database import Connection
    from axiom_server.store.experiments import VersionRow
    from axiom_server.store.studies import StudyRow

app = typer.Typer(
    help="Studies over many parameter sets: start one, show its verdicts, draw its maps.",
    no_args_is_help=True,
)
StudyName = Annotated[str, typer.Argument(help="The study's name.")]


@app.command()
def sign(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The study's file (TOML).")],
    keys_dir: KeysDir = None,
    request: ToRequest = None,
) -> None:
    """Sign a study's declaration, before it is started: who claims what, and since when."""
    from axiom_protocol.verdicts.study_design import StudyError, check
    from axiom_server.errors import Usage
    from axiom_server.publish import signed_changes

    folder, design = project_of(context), _read(file)
    version = run_transaction(folder, lambda c: _version(c, design))
    try:
        check(design, version.manifest)
    except StudyError as error:
        raise Usage(f"{file}: {error}") from None
    declared = [(design, version.manifest.ref)]
    sign_or_write_request(
        folder, signed_changes.change_targets(folder, studies=declared), keys_dir, request
    )


@app.command()
def start(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The study's file (TOML).")],
    as_json: Json = False,
) -> None:
    """Declare a study and deploy its first workunits: every parameter set with every seed."""
    from axiom_protocol.verdicts.study_design import StudyError
    from axiom_server.errors import Usage
    from axiom_server.review import studies

    folder, design = project_of(context), _read(file)

    async def work(connection: Connection) -> tuple[StudyRow, int] | None:
        version = await _version(connection, design)
        _check_signed(folder, design, version)
        return await studies.declare(connection, design, version)

    try:
        made = run_transaction(folder, work)
    except StudyError as error:
        raise Usage(f"{file}: {error}") from None
    if made is None:
        raise Usage(f"a study named {design.name!r} exists already; give this one another name")
    study, count = made
    if as_json:
        print_json({"study": study.name, "sha256": study.digest, "workunits": count})
        return
    made_now = counted(count, "pilot workunit" if study.state == "pilot" else "workunit")
    print(f"study {study.name} declared, {study.digest[:16]}; {made_now} deployed")


@app.command()
def extend(
    context: typer.Context,
    name: StudyName,
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Number of further seeds.")],
) -> None:
    """Add seeds to a study, for all its parameter sets. Verdicts remain valid at any time."""
    from axiom_server.review import studies

    made = run_transaction(project_of(context), lambda c: studies.extend(c, name, seeds))
    print(f"{counted(made, 'workunit')} deployed")


@app.command("list")
def list_studies(context: typer.Context, as_json: Json = False) -> None:
    """List studies, in the order in which they were declared."""
    from axiom_server.store import studies

    found = run_transaction(project_of(context), studies.listing)
    lines = [
        (s.name, s.design.experiment, s.state, s.rounds, f"{s.declared_at:%Y-%m-%d %H:%M}")
        for s in found
    ]
    headings = ("study", "experiment", "state", "rounds", "declared")
    if as_json:
        print_json([dict(zip(headings, line, strict=True)) for line in lines])
    else:
        print_table(headings, lines)


@app.command()
def show(context: typer.Context, name: StudyName, as_json: Json = False) -> None:
    """Show a study's progress and the verdicts on its findings."""
    from axiom_protocol.verdicts.study_verdicts import judge_study

    study, data = _load(context, name)
    verdicts = judge_study(data)
    facts = _facts(study, data) | {"signed_at": _signed_at(project_of(context), study)}
    if as_json:
        print_json({**facts, "findings": verdicts})
        return
    for key, value in facts.items():
        print(f"{key.replace('_', ' '):<16} {value}")
    for v in verdicts:
        print(f"\n{v.name}: {v.verdict} ({v.reason})\n  {v.claim}")
        if v.low is not None and v.high is not None:
            print(f"  {v.estimate:.3g} [{v.low:.3g}, {v.high:.3g}], {v.seeds} of {v.planned} seeds")


@app.command("map")
def draw_map(
    context: typer.Context,
    name: StudyName,
    file: Annotated[Path, typer.Argument(help="The picture, such as map.png or map.svg.")],
) -> None:
    """Draw the study's maps from the results so far."""
    from axiom_protocol.figure import FigureError
    from axiom_protocol.study_map import draw_maps
    from axiom_server.errors import FileUnreadable, NotFound

    _, data = _load(context, name)
    try:
        draw_maps(data, file)
    except FigureError as error:
        raise NotFound(str(error)) from None
    except (OSError, ValueError) as error:
        raise FileUnreadable(f"cannot write {file}: {error}") from None
    print(f"{file}: {file.stat().st_size:,} bytes")


def _read(file: Path) -> StudyDesign:
    from axiom_protocol.given_file import FileProblem, read_text
    from axiom_protocol.verdicts.study_design import STUDY_BYTES_MAX, StudyError, read_study
    from axiom_server.errors import FileUnreadable

    try:
        return read_study(read_text(file, STUDY_BYTES_MAX))
    except FileProblem as problem:
        raise FileUnreadable(str(problem)) from None
    except StudyError as error:
        raise FileUnreadable(f"{file}: {error}") from None


async def _version(connection: Connection, design: StudyDesign) -> VersionRow:
    """The version that the study is of: the experiment's newest."""
    from axiom_server.publish.deploy import select_versions

    (version,) = await select_versions(connection, [design.experiment])
    return version


def _check_signed(folder: ProjectFolder, design: StudyDesign, version: VersionRow) -> None:
    """Raise Usage where a study of this name was signed that claims something else."""
    from axiom_server.errors import Usage

    record = folder.bundles.studies().get(design.name)
    if record is None or (record["sha256"], record["experiment"]) == (
        design.digest, version.manifest.ref,
    ):  # fmt: skip
        return
    raise Usage(
        f"the study {design.name!r} was signed over {record['experiment']} with other contents; "
        "start that one, or give this one another name"
    )


def _load(context: typer.Context, name: str) -> tuple[StudyRow, StudyData]:
    from axiom_server.review import studies

    return run_transaction(project_of(context), lambda c: studies.load(c, name))


def _signed_at(folder: ProjectFolder, study: StudyRow) -> str:
    """When this declaration was signed, or "" where none with its contents was."""
    record = folder.bundles.studies().get(study.name)
    return str(record["declared_at"]) if record and record["sha256"] == study.digest else ""


def _facts(study: StudyRow, data: StudyData) -> dict[str, Any]:
    return {
        "study": study.name, "experiment": data.manifest.ref, "question": study.design.question,
        "state": study.state, "sha256": study.digest, "declared_at": f"{study.declared_at:%FT%TZ}",
        "parameter_sets": len(data.sets), "rounds": study.rounds,
        "seeds": f"{data.seeds[0]} to {data.seeds[-1]}", "results": len(data.cells),
        "out": data.out,
    }  # fmt: skip
