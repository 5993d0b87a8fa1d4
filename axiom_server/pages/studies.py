"""Pages of studies: what is asked over many parameter sets, the map, each finding's verdict."""

from __future__ import annotations

import gzip
from typing import Any

import msgspec

from axiom_protocol.verdicts.study_design import StudyDesign
from axiom_server.config import Config
from axiom_server.pages.drawings import number_text
from axiom_server.pages.environment import render
from axiom_server.pages.wording import criterion_text
from axiom_server.store import drawings, experiments, studies
from axiom_server.store.database import Connection
from axiom_server.store.studies import StudyRow

SEED_COLUMNS = {"seed": "BIGINT", "value": "DOUBLE"}


async def listing(connection: Connection, config: Config) -> str:
    """Every study, the newest first, with its verdicts."""
    found = await studies.listing(connection)
    return render(
        "studies.html", project=config.project.name, path="/studies",
        studies=[(s, await _facts(connection, s)) for s in reversed(found)],
    )  # fmt: skip


async def one(connection: Connection, config: Config, name: str) -> str | None:
    """One study; None when there is none of this name."""
    study = await studies.by_name(connection, name)
    if study is None:
        return None
    (version,) = await experiments.versions_by_id(connection, [study.version_id])
    facts = await _facts(connection, study)
    verdicts = {v["name"]: v for v in facts.get("verdicts", [])}
    return render(
        "study.html", project=config.project.name, path=f"/studies/{name}", study=study,
        version=version, facts=facts, drawn=await drawings.names(connection, owner_of(study)),
        findings=[(f, verdicts.get(f.name), criterion_text(f.criterion), number_text(f))
                  for f in study.design.findings],
    )  # fmt: skip


def owner_of(study: StudyRow) -> str:
    """Whose drawings a study's are."""
    return f"study:{study.study_id}"


async def _facts(connection: Connection, study: StudyRow) -> dict[str, Any]:
    """Counts and verdicts as last worked out; empty before that."""
    found = await drawings.get(connection, owner_of(study), "facts.json")
    return msgspec.json.decode(found.content) if found else {}


async def picture(connection: Connection, study: StudyRow, name: str) -> bytes | None:
    """A picture of a study; None when it is not made, or there is none of this name."""
    found = await drawings.get(connection, owner_of(study), name)
    return found.content if found else None


async def table(
    connection: Connection, study: StudyRow, name: str
) -> tuple[bytes, dict[str, str]] | None:
    """A CSV of a study, with its columns' types: ``cells``, or a finding's number of each seed."""
    cells = name == "cells"
    stored = "cells.csv" if cells else f"finding.{name}.csv"
    found = await drawings.get(connection, owner_of(study), stored)
    if found is None:
        return None
    text = gzip.decompress(found.content)
    return text, _cell_columns(study.design, text) if cells else SEED_COLUMNS


def _cell_columns(design: StudyDesign, text: bytes) -> dict[str, str]:
    names = text.split(b"\n", 1)[0].decode().split(",")
    texts = {
        name for name, axis in design.axes.items()
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in axis.values)
    }  # fmt: skip
    kinds = {"position": "BIGINT", "seed": "BIGINT"}
    return {n: kinds.get(n, "VARCHAR" if n in texts else "DOUBLE") for n in names}
