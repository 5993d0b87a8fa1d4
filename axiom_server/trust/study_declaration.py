"""The record of a study: what it claims, over which version of an experiment, since when.

It is kept in the signed targets metadata, beside the versions that studies are of. A study is no
target: hosts need not fetch it, and TUF's clients need not know the field.
"""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Any

import msgspec
from tuf.api.metadata import Targets

from axiom_protocol.verdicts.study_design import StudyDesign, StudyFinding
from axiom_server.errors import ExperimentMalformed, ExperimentUnknown
from axiom_server.trust.declaration import TIME, changes
from axiom_server.trust.targets import find_target

FIELD = "x-axiom-studies"


def declare_study(targets: Targets, design: StudyDesign, ref: str, at: datetime) -> None:
    """Add the record of a study over the version ``ref`` (name@version); again changes nothing.

    Raises ExperimentUnknown where the version is not published, ExperimentMalformed where another
    study has this name.
    """
    find_target(targets, ref)
    known = study_declarations(targets)
    record = {
        "declared_at": at.strftime(TIME), "experiment": ref, "sha256": design.digest,
        "seeds": design.seeds, "pilot_seeds": design.pilot_seeds, "criteria": criteria(design),
    }  # fmt: skip
    if design.name in known:
        _check_same(design.name, known[design.name], record)
        return
    targets.unrecognized_fields[FIELD] = known | {design.name: record}


def _check_same(name: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    if (before["sha256"], before["experiment"]) == (now["sha256"], now["experiment"]):
        return
    told = "; ".join(changes(before["criteria"], now["criteria"]))
    changed = f" (it changes {told})" if told else ""
    raise ExperimentMalformed(
        f"the study {name} was declared over {before['experiment']} with other contents{changed}, "
        "and a declared study never changes; give this one another name"
    )


def study_declarations(targets: Targets) -> dict[str, dict[str, Any]]:
    """The records of all studies, by name."""
    return dict(targets.unrecognized_fields.get(FIELD, {}))


def criteria(design: StudyDesign) -> dict[str, str]:
    """What is claimed, by finding: everything that decides its verdict, as canonical JSON."""
    return {f.name: _criterion(f) for f in design.findings}


def _criterion(finding: StudyFinding) -> str:
    claimed = {
        name: value
        for name, value in msgspec.to_builtins(finding).items()
        if name not in ("name", "claim")
    }
    return msgspec.json.encode(claimed, order="deterministic").decode()


def canonical(design: StudyDesign) -> str:
    """The text whose SHA-256 is the design's digest."""
    return msgspec.json.encode(design, order="deterministic").decode()


def is_true_study(before: Targets, name: str, record: dict[str, Any], design: StudyDesign) -> bool:
    """Whether a record is exactly what ``declare_study`` writes, at the time that it names."""
    expected = copy.deepcopy(before)
    try:
        at = datetime.strptime(str(record["declared_at"]), TIME)
        declare_study(expected, design, str(record["experiment"]), at)
    except (KeyError, ValueError, ExperimentMalformed, ExperimentUnknown):
        return False
    return design.name == name and study_declarations(expected).get(name) == record
