"""Studies over many parameter sets: declare one, create its next workunits, judge it.

A study with a refinement has three parts: pilot seeds on the declared grid; further parameter sets
along the boundary that the pilot shows; and new seeds on all sets, which decide the findings.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from axiom_protocol.manifest import Parameters
from axiom_protocol.verdicts.study_design import StudyDesign, check
from axiom_protocol.verdicts.study_verdicts import StudyData
from axiom_server.decide import refine
from axiom_server.errors import NotFound, Usage
from axiom_server.store import experiments, studies, workunits
from axiom_server.store.database import Connection
from axiom_server.store.experiments import VersionRow
from axiom_server.store.studies import StudyRow

log = structlog.get_logger()


async def declare(
    connection: Connection, design: StudyDesign, version: VersionRow
) -> tuple[StudyRow, int] | None:
    """Store a study and queue its first workunits; None when its name is taken.

    Its seeds are new to every version of the experiment. Raises StudyError.
    """
    check(design, version.manifest)
    first_seed = await studies.unused_seed(connection, version.version_id)
    study = await studies.add(connection, design, version.version_id, first_seed)
    if study is None:
        return None
    await _add_sets(connection, study, version, design.sets())
    return study, await _issue(connection, study, version)


async def advance_all(connection: Connection) -> None:
    """Take the next step of every study whose pilot is complete, and whose results stand or fell.

    Else the grid would be refined by those results alone that were quick to be confirmed.
    """
    for study in await studies.growing(connection):
        if not await _waits(connection, study):
            (version,) = await experiments.versions_by_id(connection, [study.version_id])
            if version.state == "active":
                made = await _advance(connection, study, version)
                log.info("study advanced", study=study.name, workunits=made)


async def _waits(connection: Connection, study: StudyRow) -> int:
    """How many workunits of its pilot are out, or wait for others' opinions."""
    out = await studies.count_out(connection, study, study.pilot)
    return out + await studies.count_unsettled(connection, study, study.pilot)


async def extend(connection: Connection, name: str, seeds: int) -> int:
    """Add seeds to a study, for all its parameter sets; returns how many workunits were queued.

    Raises NotFound, Usage.
    """
    study, _ = await load(connection, name)
    if study.state == "pilot":
        raise Usage(
            f"the pilot of {name} is not complete; axiom-server study show {name} shows progress"
        )
    (version,) = await experiments.versions_by_id(connection, [study.version_id])
    await studies.extend(connection, study.study_id, seeds)
    more = study._replace(more_seeds=study.more_seeds + seeds)
    return await _issue(connection, more, version)


async def _advance(connection: Connection, study: StudyRow, version: VersionRow) -> int:
    """Refine the grid once more, or end the pilot. Returns how many workunits were queued."""
    added: Sequence[Parameters] = ()
    if study.design.refine and study.rounds < study.design.refine.rounds:
        added = await _refined(connection, study)
    if added:
        await _add_sets(connection, study, version, added)
    state = "pilot" if added else "judged"
    await studies.advance(connection, study.study_id, study.rounds + 1, state)
    return await _issue(connection, study._replace(state=state), version)


async def _refined(connection: Connection, study: StudyRow) -> list[Parameters]:
    assert study.design.refine is not None
    sets = [parameters for _, parameters in await studies.sets(connection, study.study_id)]
    field = study.design.finding(study.design.refine.finding).field
    found: dict[int, list[float]] = {}
    for cell in await studies.cells(connection, study, [field], study.pilot):
        found.setdefault(cell.position, []).append(cell.values[field])
    means = [sum(v) / len(v) if (v := found.get(i)) else None for i in range(len(sets))]
    return refine.refined(study.design, study.design.refine, sets, means)


async def _add_sets(
    connection: Connection, study: StudyRow, version: VersionRow, sets: Sequence[Parameters]
) -> None:
    budget = study.design.budget_seconds or version.manifest.expected_seconds
    ids = [
        await experiments.parameters_id(connection, version.version_id, parameters, budget)
        for parameters in sets
    ]
    await studies.add_sets(connection, study.study_id, ids)


async def _issue(connection: Connection, study: StudyRow, version: VersionRow) -> int:
    """Queue all sets of the study, with the seeds of its current state (pilot or judged)."""
    seeds = study.pilot if study.state == "pilot" else study.judged
    ids = [i for i, _ in await studies.sets(connection, study.study_id)]
    return await issue_block(connection, version, ids, seeds, {"study": study.name})


async def issue_block(
    connection: Connection, version: VersionRow, parameters: Sequence[int],
    seeds: tuple[int, int], note: dict[str, str],
) -> int:  # fmt: skip
    """Queue every set with every seed, with a record for the session log; returns how many."""
    total = len(parameters) * (seeds[1] - seeds[0] + 1)
    new = await experiments.mark_used(connection, [version.experiment_id])
    line = {
        "name": version.name, "version": version.version, "version_id": version.version_id,
        "title": version.manifest.title, "workunits": total, "new": bool(new),
    }  # fmt: skip
    given = await experiments.parameter_sets(connection, parameters)
    record = {
        "experiments": [line], "hosts": [], "pool": total,
        "parameters": [p.parameters for p in given], **note,
    }  # fmt: skip
    deployment_id = await workunits.deploy(connection, "pool", (), 0.0, record)
    made = await studies.issue_block(
        connection, version.version_id, parameters, seeds, deployment_id
    )
    await workunits.set_total(connection, deployment_id, made)
    return made


async def load(connection: Connection, name: str) -> tuple[StudyRow, StudyData]:
    """A study by its name. Raises NotFound."""
    every = {study.name: study for study in await studies.listing(connection)}
    if name not in every:
        known = ", ".join(every) or "none; start one with: axiom-server study start FILE"
        raise NotFound(f"no study {name!r}; the studies are: {known}")
    return every[name], await data_of(connection, every[name])


async def data_of(connection: Connection, study: StudyRow) -> StudyData:
    """A study's data so far; while its pilot runs, none of it is used for verdicts."""
    (version,) = await experiments.versions_by_id(connection, [study.version_id])
    sets = [parameters for _, parameters in await studies.sets(connection, study.study_id)]
    design, first_last = study.design, study.judged if study.state == "judged" else study.pilot
    fields = sorted({f.field for f in design.findings} | {m.field for m in design.maps})
    out = await studies.count_out(connection, study, first_last)
    if study.state == "pilot":
        out += len(sets) * (design.seeds + study.more_seeds)
    return StudyData(
        design=design, manifest=version.manifest, sets=sets, out=out,
        seeds=range(first_last[0], first_last[1] + 1),
        cells=await studies.cells(connection, study, fields, first_last),
    )  # fmt: skip
