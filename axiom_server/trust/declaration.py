"""The record of a declaration: a version's criteria, their time, and changes to the version before.

The record is kept in the signed targets metadata, in the ``custom`` field of the version's file. So
whoever trusts the experiment's bytes can also trust that its criteria were fixed before there was
data. TUF clients need not know the field.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from tuf.api.metadata import TargetFile, Targets

from axiom_protocol.manifest import Finding, Manifest

CUSTOM = "custom"  # TUF's name for what an application adds to a target
FIELD = "x-axiom-declaration"
TIME = "%Y-%m-%dT%H:%M:%SZ"


def declare(targets: Targets, manifest: Manifest, at: datetime) -> None:
    """Add the record to a version that was just added, with its changes to the version before."""
    before = latest(targets, manifest)
    record = {
        "declared_at": at.strftime(TIME),
        "criteria": criteria(manifest),
        "criteria_sha256": digest(manifest),
        "planned_seeds": manifest.planned_seeds,
        "before": before[0] if before else None,
        "changes": changes(before[1] if before else {}, criteria(manifest)) if before else [],
    }
    file = targets.targets[f"{manifest.ref}.py"]
    file.unrecognized_fields[CUSTOM] = {FIELD: record}


def declaration_of(file: TargetFile) -> dict[str, Any] | None:
    """A version's record; None for versions published before records were kept."""
    found = file.unrecognized_fields.get(CUSTOM, {}).get(FIELD)
    return dict(found) if found is not None else None


def is_true_record(before: Targets, file: TargetFile, manifest: Manifest) -> bool:
    """Whether a file has exactly the record that ``declare`` writes, at the time that it names."""
    record = declaration_of(file)
    targets = copy.deepcopy(before)
    expected = TargetFile(file.length, file.hashes, file.path)
    targets.targets[file.path] = expected
    try:
        declare(targets, manifest, datetime.strptime(str((record or {})["declared_at"]), TIME))
    except (KeyError, ValueError):
        return False
    return bool(expected == file)


def declared_changes(file: TargetFile) -> list[str]:
    """How a version's criteria differ from the previous version's, one line for each finding."""
    return list((declaration_of(file) or {}).get("changes", []))


def declarations(targets: Targets) -> dict[str, dict[str, Any]]:
    """The records of all versions that may run, by name@version."""
    found = {
        path.removesuffix(".py"): declaration_of(file) for path, file in targets.targets.items()
    }
    return {ref: record for ref, record in sorted(found.items()) if record is not None}


def criteria(manifest: Manifest) -> dict[str, str]:
    """The criteria by finding: everything that decides its verdict, as canonical JSON."""
    return {f.name: _criterion(manifest, f) for f in manifest.findings}


def digest(manifest: Manifest) -> str:
    """SHA-256 of the criteria: equal for versions that differ only in code."""
    encoded = msgspec.json.encode(criteria(manifest), order="deterministic")
    return hashlib.sha256(encoded).hexdigest()


def _criterion(manifest: Manifest, finding: Finding) -> str:
    """The finding's numbers, and the bounds of the fields that it reads, which also matter."""
    bounds = {
        name: [manifest.result[name].min, manifest.result[name].max]
        for name in (finding.field, finding.control)
        if name is not None
    }
    claimed = {
        "field": finding.field, "control": finding.control, "statistic": finding.statistic,
        "above": finding.criterion.above, "below": finding.criterion.below,
        "min_share": finding.min_share, "where": finding.where, "bounds": bounds,
    }  # fmt: skip
    return msgspec.json.encode(claimed, order="deterministic").decode()


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The differences between two versions' criteria, one line for each finding."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            lines.append(f"{name}: new")
        elif name not in after:
            lines.append(f"{name}: no longer claimed")
        elif before[name] != after[name]:
            lines.append(f"{name}: {', '.join(_differences(before[name], after[name]))}")
    return lines


def _differences(before: str, after: str) -> list[str]:
    old, new = msgspec.json.decode(before), msgspec.json.decode(after)
    return [
        f"{key} {_shown(old.get(key))} -> {_shown(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()


def latest(targets: Targets, manifest: Manifest) -> tuple[str, dict[str, str]] | None:
    """(version, criteria) of the newest other version of the experiment that has a record."""
    found = [
        (ref.partition("@")[2], record["criteria"])
        for ref, record in declarations(targets).items()
        if ref.partition("@")[0] == manifest.name and ref != manifest.ref
    ]
    return max(found, key=lambda v: [int(p) for p in v[0].split(".")], default=None)
