"""The data of a finding's chart, one row for each seed, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
from typing import Any

import msgspec

from axiom_protocol.manifest import Finding
from axiom_server.store.experiments import VersionRow
from axiom_server.store.finding_values import FindingValues

#: Columns of the data -> their DuckDB types.
COLUMN_TYPES = {
    "seed": "BIGINT", "host_id": "BIGINT", "value": "DOUBLE", "field": "DOUBLE",
    "control": "DOUBLE",
}  # fmt: skip
COLUMNS = tuple(COLUMN_TYPES)


def table(values: FindingValues | None) -> list[tuple[Any, ...]]:
    """The data, one row for each seed, in the order of COLUMNS."""
    if values is None:
        return []
    controls: list[float | None] = list(values.controls) or [None] * len(values.seeds)
    return list(
        zip(values.seeds, values.hosts, values.numbers, values.fields, controls, strict=True)
    )


def as_csv(values: FindingValues | None) -> str:
    """The data as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(table(values))
    return text.getvalue()


def as_json(version: VersionRow, finding: Finding, values: FindingValues | None) -> bytes:
    """The data as JSON, with the finding's declaration and verdict."""
    return msgspec.json.encode(
        {
            "experiment": version.name, "version": version.version, "sha256": version.sha256,
            "finding": finding, "judged_at": values.judged_at if values else None,
            "verdict": values.verdict if values else None,
            "values": [dict(zip(COLUMNS, line, strict=True)) for line in table(values)],
        }
    )  # fmt: skip
